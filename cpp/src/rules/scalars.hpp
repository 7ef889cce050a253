// The coefficients as the formulas use them. Internal linkage for the reason given in rules.hpp.
#pragma once

#include "rmsprop/update.hpp"

namespace rmsprop {
namespace {

// Each rounded once to the compute type.
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

}  // namespace
}  // namespace rmsprop
