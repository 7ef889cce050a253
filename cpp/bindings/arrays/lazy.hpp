// PyTorch's tensors that are lazily negated or conjugated, so that their memory does not have their values.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>

#include "../messages.hpp"

namespace rmsprop::bindings {

// Asks a tensor, which has to be of a type with the exchange API of DLPack. This may run Python code, that of modes of
// PyTorch, too, and lets other threads run.
bool is_lazy(PyObject* tensor);

// Whether the storage of such a tensor has all bytes from `begin` to `end`: other code may have made it smaller. The
// same holds as for is_lazy().
bool has_memory(PyObject* tensor, std::uintptr_t begin, std::uintptr_t end);

// The same tensor in memory as it is, elsewhere; itself, if it is so already or is no tensor.
py::object resolved(py::object tensor);

// The problem with such a tensor where it has to be written.
Problem lazy_problem();

}  // namespace rmsprop::bindings
