// The stages before a rule, on the gradient or the parameter: each once, for one element. Internal linkage for the
// reason given in rules.hpp.
#pragma once

#include "rules/scalars.hpp"

namespace rmsprop {
namespace {

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

}  // namespace
}  // namespace rmsprop
