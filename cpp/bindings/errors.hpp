// How the bindings say what is wrong: the argument, what was found, what was wanted.
#pragma once

#include <pybind11/pybind11.h>

#include <string>

namespace rmsprop::bindings {

namespace py = pybind11;

// Names an argument, as in `grads`, `grads[3]`, `params['weight'].grad` or `state[3]['square_avg']`.
struct Label {
  const char* argument;
  py::object key = {};          // null for an argument that is one array
  const char* entry = nullptr;  // null unless the argument holds a mapping per key
  const char* attribute = nullptr;
  std::string text() const;
};

// Messages are `label: what`.
[[noreturn]] void raise_type_error(const Label& label, const std::string& what);
[[noreturn]] void raise_value_error(const Label& label, const std::string& what);

// A state array is missing that the hyperparameters ask for: a ValueError, unless the optimizer can allocate it.
struct MissingState : py::value_error {
  using py::value_error::value_error;
};

std::string type_name(PyObject* object);
std::string repr(PyObject* object);

}  // namespace rmsprop::bindings
