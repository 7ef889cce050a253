// PyTorch's tensors that hold their elements negated or conjugated, so that their memory is not what they say.
#pragma once

#include <pybind11/pybind11.h>

#include "../messages.hpp"

namespace rmsprop::bindings {

// Asks a tensor, which has to be of a type with the exchange API of DLPack. Types other than PyTorch's own may run
// Python code then.
bool is_lazy(PyObject* tensor);

// False if it is certain that is_lazy() runs no Python code.
bool may_run_python_when_asked(PyObject* tensor);

// What is wrong with one that has to be memory.
Problem lazy_problem();

}  // namespace rmsprop::bindings
