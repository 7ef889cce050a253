// What a user chooses: the hyperparameters of each rule, under PyTorch's names.
//
// All of them are doubles or bools. Whatever a kernel needs is derived from them once, in double precision, and then
// rounded once to the compute type of each tensor (see update.hpp).
#pragma once

#include <limits>

namespace rmsprop {

// What is done to a gradient, or to the parameter, before the rule sees it. Every default means "nothing".
struct Preparation {
  double grad_scale = 1.0;                                      // g = grad_scale * g
  double clip_scale = 1.0;                                      // g = clip_scale * g, from the global norm
  double clip_value = std::numeric_limits<double>::infinity();  // g = clip(g, -clip_value, clip_value)
  bool maximize = false;                                        // g = -g
  double weight_decay = 0.0;                                    // g = g + weight_decay * w, or, decoupled:
  bool decoupled_weight_decay = false;                          // w = w - (lr * weight_decay) * w
};

// v = alpha * v + (1 - alpha) * g^2,   w = w - lr * g / sqrt(v + eps),   and its relatives.
struct RMSprop {
  double lr = 1e-3;
  double alpha = 0.9;  // how much of the old average is kept, in [0, 1]
  double eps = 1e-8;
  bool eps_in_sqrt = true;  // sqrt(v + eps) if true, sqrt(v) + eps if false
  bool centered = false;    // divide by an estimate of the variance; needs grad_avg
  double momentum = 0.0;    // above 0: needs momentum_buffer
  bool nesterov = false;
  bool lr_in_momentum = false;   // the buffer sums lr * g / d (TensorFlow) instead of g / d (PyTorch)
  bool bias_correction = false;  // averages are divided by 1 - alpha^t
  Preparation prepare = {};
};

// a = a + g^2,   w = w - lr / (1 + (t - 1) * lr_decay) * g / sqrt(a + eps).
struct Adagrad {
  double lr = 1e-2;
  double lr_decay = 0.0;
  double eps = 1e-8;
  bool eps_in_sqrt = true;
  Preparation prepare = {};
};

// Throw std::invalid_argument that names the first value no step could use, and what was wanted.
void check(const RMSprop& hyperparameters);
void check(const Adagrad& hyperparameters);

}  // namespace rmsprop
