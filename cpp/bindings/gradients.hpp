// The gradients of a step, whatever they came in.
#pragma once

#include <pybind11/pybind11.h>

#include <cstddef>

namespace rmsprop::bindings {

namespace py = pybind11;

class Gradients {
 public:
  // grads: one array (keys is None), a dict (keys are strings) or a sequence (keys are anything else).
  // Messages call them `argument`.
  Gradients(const py::object& grads, const py::object& keys, const char* argument);

  // Raises ValueError unless there is one gradient, or None, for each parameter, and no other.
  void check_count(std::size_t params) const;

  // Borrowed, and None for a parameter to be skipped. Runs no Python code.
  PyObject* at(std::size_t index) const;

 private:
  void check_names() const;
  [[noreturn]] void raise_kind(const py::object& grads, const char* wanted) const;

  const char* argument_;
  py::object keys_, single_, by_name_, sequence_;  // one of the last three is set
};

}  // namespace rmsprop::bindings
