// The stages before a rule, on the gradient or the parameter, and after it: each once, for one element. Internal
// linkage for the reason given in rules.hpp.
#pragma once

#include "rules/scalars.hpp"

namespace rmsprop {
namespace {

// Comparisons with NaN are false, so a NaN stays NaN.
template <class T>
inline T clipped(T g, T limit) {
  g = -limit > g ? -limit : g;
  return limit < g ? limit : g;
}

// What is not asked for has coefficients that change nothing, but for weight decay (0 * inf is NaN).
template <class T>
inline T prepared(T g, T w, bool adds_l2, const Scalars<T>& c) {
  g = c.grad_scale * g;
  g = c.clip_scale * g;
  g = clipped(g, c.clip_value);
  g = c.sign * g;
  return adds_l2 ? g + c.weight_decay * w : g;
}

template <class T>
inline T decayed(T w, bool decays, const Scalars<T>& c) {
  return decays ? w - c.decoupled_decay * w : w;
}

template <class T>
inline T averaged(T ema, T w, const Scalars<T>& c) {
  return c.ema_decay * ema + c.one_minus_ema_decay * w;
}

}  // namespace
}  // namespace rmsprop
