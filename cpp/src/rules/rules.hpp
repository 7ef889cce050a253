// The update formulas, each written once, for one element.
//
// Every line is one IEEE-754 operation at a time in
// the type T; compiler flags forbid contraction, reassociation and approximation (cmake/InstructionSets.cmake), so the
// order written here is the order that runs, and the bits are those of the NumPy reference.
//
// Everything here has internal linkage: this header is compiled once per instruction set, and the linker must never
// merge a function built for one CPU with its copy built for another.
#pragma once

#include <array>

#if !defined(__GNUC__) && !defined(__clang__)
#include <math.h>
#endif

#include "rmsprop/tensor.hpp"
#include "rules/scalars.hpp"

namespace rmsprop {
namespace {

// Not std::sqrt(), which may be an inline function with external linkage. MSVC has no such built-in functions, and
// makes one instruction of a call of the C library's.
#if defined(__GNUC__) || defined(__clang__)
inline float square_root(float x) { return __builtin_sqrtf(x); }
inline double square_root(double x) { return __builtin_sqrt(x); }
#else
inline float square_root(float x) { return ::sqrtf(x); }
inline double square_root(double x) { return ::sqrt(x); }
#endif

// One element of every operand. The kernels load the parameter, the gradient and the state that a rule uses, and store
// the same ones except for the gradient; the rest is zero.
template <class T>
struct Element {
  T param, grad, square_avg, grad_avg, momentum_buffer;
};

template <class T>
constexpr std::array members = {&Element<T>::param, &Element<T>::grad, &Element<T>::square_avg, &Element<T>::grad_avg,
                                &Element<T>::momentum_buffer};
static_assert(members<float>.size() == operand_count, "a member for each operand, in the order of enum Operand");

// ---- The rules: which enumerator each is, the state it uses as a bit per Operand, and its formula -------------------

constexpr unsigned bit(Operand operand) { return 1u << operand; }

template <class T>
inline T denominator(T s, const Scalars<T>& c) {
  return square_root(s + c.eps_inside) + c.eps_outside;
}

struct AdagradRule {
  static constexpr Rule rule = Rule::adagrad;
  static constexpr unsigned state = bit(square_avg);

  template <class T>
  static void update(Element<T>& e, const Scalars<T>& c) {
    e.square_avg = e.square_avg + e.grad * e.grad;
    e.param = e.param - (c.lr_inside * e.grad) / denominator(e.square_avg, c);
  }
};

enum class Momentum { none, heavy_ball, nesterov };

template <Rule which, bool centered, Momentum momentum>
struct RMSpropRule {
  static constexpr Rule rule = which;
  static constexpr unsigned state =
      bit(square_avg) | (centered ? bit(grad_avg) : 0u) | (momentum != Momentum::none ? bit(momentum_buffer) : 0u);

  template <class T>
  static void update(Element<T>& e, const Scalars<T>& c) {
    e.square_avg = c.alpha * e.square_avg + c.one_minus_alpha * (e.grad * e.grad);
    T s = e.square_avg * c.correction;
    if constexpr (centered) {
      e.grad_avg = c.alpha * e.grad_avg + c.one_minus_alpha * e.grad;
      const T mean = e.grad_avg * c.correction;
      s = s - mean * mean;
      s = s < T(0) ? T(0) : s;  // rounding can make a variance negative; a NaN stays NaN
    }
    const T u = (c.lr_inside * e.grad) / denominator(s, c);
    if constexpr (momentum == Momentum::none) {
      e.param = e.param - u;
    } else {
      T& b = e.momentum_buffer;
      b = c.momentum * b + u;
      e.param = e.param - c.lr_outside * (momentum == Momentum::nesterov ? c.momentum * b + u : b);
    }
  }
};

// ---- The one list of them -------------------------------------------------------------------------------------------

template <class... Rules>
struct RuleList {
  static_assert(sizeof...(Rules) == rule_count &&
                    ((1u << static_cast<int>(Rules::rule)) | ...) == (1u << rule_count) - 1,
                "one formula for each Rule");
};

using AllRules = RuleList<AdagradRule,                                                               //
                          RMSpropRule<Rule::rmsprop, false, Momentum::none>,                         //
                          RMSpropRule<Rule::rmsprop_momentum, false, Momentum::heavy_ball>,          //
                          RMSpropRule<Rule::rmsprop_nesterov, false, Momentum::nesterov>,            //
                          RMSpropRule<Rule::rmsprop_centered, true, Momentum::none>,                 //
                          RMSpropRule<Rule::rmsprop_centered_momentum, true, Momentum::heavy_ball>,  //
                          RMSpropRule<Rule::rmsprop_centered_nesterov, true, Momentum::nesterov>>;

// The state of each, in the order of enum Rule.
template <class... Rules>
constexpr std::array<unsigned, rule_count> states_of(RuleList<Rules...>) {
  std::array<unsigned, rule_count> states = {};
  ((states[static_cast<int>(Rules::rule)] = Rules::state), ...);
  return states;
}

}  // namespace
}  // namespace rmsprop
