// The gradients of a step, in any container.
#pragma once

#include <pybind11/pybind11.h>

#include <cstddef>
#include <vector>

#include "../groups.hpp"
#include "../python.hpp"

namespace rmsprop::bindings {

class GradientsArgument {
 public:
  // grads: one array (keys is None), a dict (keys are strings) or a sequence (keys are anything else).
  // Arrays that can only be looked at through their own Python code are exported here, and a NumPy scalar, which is
  // what operators make of arrays without dimensions, becomes such an array. Tensors that are stored negated or
  // conjugated are refused. Messages call them `argument`. This may run Python code; nothing after it does.
  GradientsArgument(const py::object& grads, PyObject* keys, const std::vector<Group>& groups, const char* argument);

  // One gradient, or None for a parameter to be skipped, for each parameter. Raises ValueError if the numbers
  // differ.
  Items items(std::size_t params) const;

 private:
  void make_viewable(PyObject* keys, const std::vector<Group>& groups);
  py::list in_order_of(PyObject* names, const py::dict& grads) const;
  [[noreturn]] void raise_kind(const py::object& grads, const char* wanted) const;

  const char* argument_;
  py::object sequence_;      // a list or a tuple, or null if there is a single gradient, which
  py::object single_owner_;  // this owns
  PyObject* single_ = nullptr;
};

}  // namespace rmsprop::bindings
