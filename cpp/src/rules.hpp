// The update formulas, each written once, for one element.
//
// This is the place to read what a step computes and to add a rule. Every line is one IEEE-754 operation at a time in
// the type T; the compiler is told not to contract, re-associate or approximate (cmake/InstructionSets.cmake), so the
// order written here is the order that runs, and the bits are those of the NumPy reference.
//
// Everything here has internal linkage: this header is compiled once per instruction set, and the linker must never
// merge a function built for one CPU with its copy built for another.
#pragma once

#if !defined(__GNUC__) && !defined(__clang__)
#include <math.h>
#endif

#include "rmsprop/update.hpp"

namespace rmsprop {
namespace {

// The coefficients, each rounded once to the compute type.
template <class T>
struct Scalars {
  explicit Scalars(const Coefficients& c)
      : alpha(static_cast<T>(c.alpha)),
        one_minus_alpha(static_cast<T>(c.one_minus_alpha)),
        correction(static_cast<T>(c.correction)),
        eps_inside(static_cast<T>(c.eps_inside)),
        eps_outside(static_cast<T>(c.eps_outside)),
        lr_inside(static_cast<T>(c.lr_inside)),
        lr_outside(static_cast<T>(c.lr_outside)),
        momentum(static_cast<T>(c.momentum)),
        grad_scale(static_cast<T>(c.grad_scale)),
        clip_scale(static_cast<T>(c.clip_scale)),
        clip_value(static_cast<T>(c.clip_value)),
        sign(static_cast<T>(c.sign)),
        weight_decay(static_cast<T>(c.weight_decay)),
        decoupled_decay(static_cast<T>(c.decoupled_decay)) {}

  T alpha, one_minus_alpha, correction, eps_inside, eps_outside, lr_inside, lr_outside, momentum;
  T grad_scale, clip_scale, clip_value, sign, weight_decay, decoupled_decay;
};

// Not std::sqrt(), which may be an inline function with external linkage. MSVC has no such built-in functions, and
// makes one instruction of a call of the C library's.
#if defined(__GNUC__) || defined(__clang__)
inline float square_root(float x) { return __builtin_sqrtf(x); }
inline double square_root(double x) { return __builtin_sqrt(x); }
#else
inline float square_root(float x) { return ::sqrtf(x); }
inline double square_root(double x) { return ::sqrt(x); }
#endif

// ---- Stages before the rule -----------------------------------------------------------------------------------------

// Comparisons with NaN are false, so a NaN stays NaN.
template <class T>
inline T clipped(T g, T limit) {
  if (g < -limit) return -limit;
  if (g > limit) return limit;
  return g;
}

template <bool adds_l2, class T>
inline T prepared(T g, T w, const Scalars<T>& c) {
  g = c.grad_scale * g;
  g = c.clip_scale * g;
  g = clipped(g, c.clip_value);
  g = c.sign * g;
  if constexpr (adds_l2) g = g + c.weight_decay * w;
  return g;
}

template <class T>
inline T decayed(T w, const Scalars<T>& c) {
  return w - c.decoupled_decay * w;
}

// ---- The rules ------------------------------------------------------------------------------------------------------
//
// w: parameter, g: gradient, v: the average or the sum of squares, m: the average gradient, b: the momentum buffer.

template <class T>
inline T denominator(T s, const Scalars<T>& c) {
  return square_root(s + c.eps_inside) + c.eps_outside;
}

struct AdagradRule {
  static constexpr bool centered = false;
  static constexpr bool has_momentum = false;

  template <class T>
  static void update(T& w, T g, T& v, T& /*m*/, T& /*b*/, const Scalars<T>& c) {
    v = v + g * g;
    w = w - (c.lr_inside * g) / denominator(v, c);
  }
};

enum class Momentum { none, heavy_ball, nesterov };

template <bool is_centered, Momentum kind>
struct RMSpropRule {
  static constexpr bool centered = is_centered;
  static constexpr bool has_momentum = kind != Momentum::none;

  template <class T>
  static void update(T& w, T g, T& v, T& m, T& b, const Scalars<T>& c) {
    v = c.alpha * v + c.one_minus_alpha * (g * g);
    T s = v * c.correction;
    if constexpr (centered) {
      m = c.alpha * m + c.one_minus_alpha * g;
      const T mean = m * c.correction;
      s = s - mean * mean;
      s = s < T(0) ? T(0) : s;  // rounding can make a variance negative; a NaN stays NaN
    }
    const T u = (c.lr_inside * g) / denominator(s, c);
    if constexpr (kind == Momentum::none) {
      w = w - u;
    } else {
      b = c.momentum * b + u;
      w = w - c.lr_outside * (kind == Momentum::nesterov ? c.momentum * b + u : b);
    }
  }
};

}  // namespace
}  // namespace rmsprop
