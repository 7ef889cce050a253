/// @file
/// One rule with its coefficients: what the engine applies to a tensor at its t-th step.
#pragma once

#include <cstdint>
#include <limits>

#include "rmsprop/hyperparameters.hpp"

namespace rmsprop {

/// Every formula of the kernels. A feature that only changes a number is not listed: it is a coefficient.
enum class Rule : std::uint8_t {
  adagrad,                    ///< Adagrad.
  rmsprop,                    ///< RMSprop without momentum, not centered.
  rmsprop_momentum,           ///< With momentum.
  rmsprop_nesterov,           ///< With momentum, looking ahead.
  rmsprop_centered,           ///< Centered, without momentum.
  rmsprop_centered_momentum,  ///< Centered, with momentum.
  rmsprop_centered_nesterov,  ///< Centered, with momentum, looking ahead.
};
/// How many rules there are.
inline constexpr int rule_count = 7;

/// The scalars of the formulas, in double; a kernel rounds each once to its compute type.
///
/// A disabled feature has its neutral value here, which is exact: for every x, the bits of 1 * x, of
/// sqrt(x + 0) and of sqrt(x) + 0 are those of x and sqrt(x). So both placements of eps, both of lr, and bias
/// correction share one formula with the plain case. Weight decay is not neutral at 0 (0 * inf is NaN): it is a stage.
template <class T>
struct CoefficientsOf {
  T alpha = 0;            ///< Times the old average.
  T one_minus_alpha = 1;  ///< Times what is averaged.
  T correction = 1;       ///< 1 / (1 - alpha^t) under bias correction.
  T eps_inside = 0;       ///< Added before the square root.
  T eps_outside = 0;      ///< Added after it.
  T lr_inside = 1;        ///< Times the gradient, before the division.
  T lr_outside = 1;       ///< Times the momentum buffer, after it.
  T momentum = 0;         ///< Times the old momentum buffer.

  T grad_scale = 1;                                   ///< Times the gradient, first.
  T clip_scale = 1;                                   ///< Times the gradient, then.
  T clip_value = std::numeric_limits<T>::infinity();  ///< The gradient is clipped to plus and minus this.
  T sign = 1;                                         ///< -1 to maximize.
  T weight_decay = 0;                                 ///< L2.
  T decoupled_decay = 0;                              ///< lr * weight_decay, decoupled.

  T ema_decay = 0;            ///< Times the old average of the weights.
  T one_minus_ema_decay = 1;  ///< Times the weights.
};
/// As they are made.
using Coefficients = CoefficientsOf<double>;

/// A rule, its stages and its numbers. Made by make_update(); tensors point to it.
struct Update {
  Rule rule = Rule::rmsprop;       ///< The formula.
  bool prepares_grad = false;      ///< The gradient is scaled, clipped or negated, or gets the L2 term.
  bool adds_l2 = false;            ///< It gets the L2 term.
  bool decays_param = false;       ///< The parameter is decayed before the rule is applied.
  bool averages_param = false;     ///< The average of the weights is updated after it.
  Coefficients coefficients = {};  ///< The numbers.
};

/// The update at step `t`, counted from 1. The hyperparameters must have passed check().
Update make_update(const RMSprop& hyperparameters, std::int64_t t);
/// @copydoc make_update(const RMSprop&, std::int64_t)
Update make_update(const Adagrad& hyperparameters, std::int64_t t);

/// Also scales every gradient by `clip_scale`, which depends on the norm of all gradients.
void set_clip_scale(Update& update, double clip_scale);

/// True if the result of make_update() depends on `t`.
bool depends_on_step(const RMSprop& hyperparameters);
/// @copydoc depends_on_step(const RMSprop&)
bool depends_on_step(const Adagrad& hyperparameters);

}  // namespace rmsprop
