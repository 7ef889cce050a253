// The gradients of a step, whatever they came in.
#pragma once

#include <pybind11/pybind11.h>

#include <cstddef>

namespace rmsprop::bindings {

namespace py = pybind11;

class Gradients {
 public:
  // grads: one array (keys is None), a dict (keys are strings) or a sequence (keys are anything else).
  // Messages call them `argument`. This may run Python code; nothing after it does.
  Gradients(const py::object& grads, PyObject* keys, const char* argument);

  // Raises ValueError unless there is one gradient, or None, for each parameter.
  void check_count(std::size_t params) const;

  // Borrowed, and None for a parameter to be skipped.
  PyObject* at(std::size_t index) const;

 private:
  py::list in_order_of(PyObject* names, const py::dict& grads) const;
  [[noreturn]] void raise_kind(const py::object& grads, const char* wanted) const;

  const char* argument_;
  py::object single_, sequence_;  // one of them is set
};

}  // namespace rmsprop::bindings
