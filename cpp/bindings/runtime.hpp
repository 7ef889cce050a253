// Threads and instruction sets for Python.
#pragma once

#include <pybind11/pybind11.h>

namespace rmsprop::bindings {

void register_runtime(pybind11::module_& m);

}  // namespace rmsprop::bindings
