// The gradients of a step, whatever they came in.
#pragma once

#include <pybind11/pybind11.h>

#include <cstddef>

namespace rmsprop::bindings {

namespace py = pybind11;

class Gradients {
 public:
  // grads: one array (keys is None), a dict (keys are strings) or a sequence (keys are anything else).
  // Arrays that can only be looked at through their own Python code are exported here.
  // Messages call them `argument`. This may run Python code; nothing after it does.
  Gradients(const py::object& grads, PyObject* keys, const char* argument);

  // Raises ValueError unless there is one gradient, or None, for each parameter.
  void check_count(std::size_t params) const;

  // Borrowed, in the order of the parameters, and None for a parameter to be skipped.
  PyObject* const* items() const;

 private:
  py::list in_order_of(PyObject* names, const py::dict& grads) const;
  void export_foreign();
  void set_single(const py::object& grad);
  [[noreturn]] void raise_kind(const py::object& grads, const char* wanted) const;

  const char* argument_;
  py::object sequence_;         // a list or a tuple; null if there is a single gradient:
  PyObject* single_ = nullptr;  // borrowed from single_owner_, and a pointer of its own so that items() can point to it
  py::object single_owner_;
};

}  // namespace rmsprop::bindings
