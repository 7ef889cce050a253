/// @file
/// RMSprop and Adagrad steps on a CPU: everything a C++ program needs.
#pragma once

#include "rmsprop/dense.hpp"
#include "rmsprop/gradients.hpp"
#include "rmsprop/hyperparameters.hpp"
#include "rmsprop/rule_table.hpp"
#include "rmsprop/runtime.hpp"
#include "rmsprop/step.hpp"
#include "rmsprop/storage.hpp"
#include "rmsprop/tensor.hpp"
#include "rmsprop/update.hpp"

/// The RMSprop and Adagrad step on a CPU.
namespace rmsprop {}
