/// @file
/// The hyperparameters of each rule, under PyTorch's names.
///
/// All of them are doubles or bools. The scalars of the kernels are derived from them once, in double precision, and
/// then rounded once to the compute type of each tensor (see update.hpp). In the formulas w is the parameter, g its
/// gradient, v, m and b are the state `square_avg`, `grad_avg` and `momentum_buffer`, and t counts steps from 1.
#pragma once

#include <cstdint>
#include <limits>

namespace rmsprop {

/// What is applied to a gradient, or to the parameter, before the rule, in this order. Every default has no effect.
struct Preparation {
  double grad_scale = 1.0;  ///< g = grad_scale * g. Any finite number.
  double clip_scale = 1.0;  ///< g = clip_scale * g, from the norm of all gradients: see clip_scale().
  double clip_value = std::numeric_limits<double>::infinity();  ///< g = clip(g, -clip_value, clip_value). At least 0.
  bool maximize = false;                                        ///< g = -g.
  double weight_decay = 0.0;            ///< g = g + weight_decay * w, unless it is decoupled. At least 0.
  bool decoupled_weight_decay = false;  ///< Instead: w = w - (lr * weight_decay) * w.
};

/// How state is stored.
enum class StateDType : std::uint8_t {
  computed,   ///< The compute type.
  bfloat16,   ///< bfloat16, rounded stochastically. Only for parameters that are computed in float32.
  eight_bits  ///< 8 bits with a scale for each block, rounded stochastically; an average gradient cannot be.
};

/// Whether a parameter of 16 bits has the rest of a float32 beside it.
enum class MasterWeights : std::uint8_t {
  none,  ///< It has not.
  split  ///< `param_low` has it.
};

/// How the arrays of a parameter are stored. A tensor has what follows from it: see state_packing() and random_key().
struct Storage {
  StateDType state_dtype = StateDType::computed;       ///< That of all state.
  MasterWeights master_weights = MasterWeights::none;  ///< For parameters of bfloat16.
  bool stochastic_rounding = false;                    ///< Of parameters of bfloat16.
  /// Keep the average of the weights, ema = ema_decay * ema + (1 - ema_decay) * w after the step, in `ema`: from 0 to
  /// 1; infinity for none. w is the result of the step before it is rounded to a format.
  double ema_decay = std::numeric_limits<double>::infinity();
  std::uint64_t seed = 0;  ///< Of stochastic rounding. At most 2^53 - 1.
};

/// RMSprop: v = alpha * v + (1 - alpha) * g^2,  w = w - lr * g / sqrt(v + eps),  and its relatives.
struct RMSprop {
  double lr = 1e-3;              ///< The learning rate, in units of the parameter. At least 0.
  double alpha = 0.9;            ///< The weight of the old average, from 0 to 1.
  double eps = 1e-8;             ///< In units of the squared gradient, or, outside of the root, of the gradient. >= 0.
  bool eps_in_sqrt = true;       ///< Divide by sqrt(v + eps); if false by sqrt(v) + eps, as PyTorch does.
  bool centered = false;         ///< Divide by an estimate of the variance, v - m^2. Needs `grad_avg`.
  double momentum = 0.0;         ///< At least 0; above 0 it needs `momentum_buffer`.
  bool nesterov = false;         ///< Look ahead along the momentum. Needs a momentum above 0.
  bool lr_in_momentum = false;   ///< b sums lr * g / d, as in TensorFlow, and not g / d, as in PyTorch.
  bool bias_correction = false;  ///< Averages are divided by 1 - alpha^t.
  Preparation prepare = {};      ///< What is applied before.
  Storage storage = {};          ///< How state is stored.
};

/// Adagrad: v = v + g^2,  w = w - lr / (1 + (t - 1) * lr_decay) * g / sqrt(v + eps).
struct Adagrad {
  double lr = 1e-2;          ///< The learning rate, in units of the parameter. At least 0.
  double lr_decay = 0.0;     ///< At least 0.
  double eps = 1e-8;         ///< As for RMSprop.
  bool eps_in_sqrt = true;   ///< As for RMSprop.
  Preparation prepare = {};  ///< What is applied before.
  Storage storage = {};      ///< How state is stored.
};

/// @throws std::invalid_argument that names the first value no step could use, and what was wanted.
void check(const RMSprop& hyperparameters);
/// @copydoc check(const RMSprop&)
void check(const Adagrad& hyperparameters);

}  // namespace rmsprop
