// From a parameter group, a Python dict under PyTorch's names, to hyperparameters that have passed every check.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <functional>
#include <string_view>
#include <variant>

#include "rmsprop/hyperparameters.hpp"

namespace rmsprop::bindings {

namespace py = pybind11;

using Hyperparameters = std::variant<RMSprop, Adagrad>;

enum class Algorithm : std::uint8_t { rmsprop, adagrad };

// Reads and checks every hyperparameter of a group. Raises TypeError or ValueError that names the one at fault, and the
// group too if `group_index` is not negative. If `lr` is callable it is called with steps_taken().
Hyperparameters read_hyperparameters(Algorithm algorithm, PyObject* group, int group_index, double grad_scale,
                                     const std::function<std::int64_t()>& steps_taken);

// A number as Python's float() would have it, but no bool, complex or string. Raises TypeError or ValueError.
double number_from(PyObject* object, const char* name);

// None (0, meaning the default of the process) or a number of threads.
int num_threads_from(PyObject* object);

}  // namespace rmsprop::bindings
