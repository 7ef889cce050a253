// What a step must compute, written from the specification for one element at a time and without a look at the engine.
//
// It takes the hyperparameters as a user gives them, so it also checks how the engine derives its coefficients.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <variant>
#include <vector>

#include "rmsprop/rmsprop.hpp"

using Hyperparameters = std::variant<rmsprop::RMSprop, rmsprop::Adagrad>;

// Values by logical index, for each rmsprop::Operand.
template <class T>
using Operands = std::array<std::vector<T>, rmsprop::operand_count>;

// Bias correction is known for t <= 3 only: up to there alpha^t has one obvious order of multiplication.
template <class T>
Operands<T> oracle_step(const Hyperparameters& hyperparameters, std::int64_t t, Operands<T> operands);
