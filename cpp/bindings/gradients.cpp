#include "gradients.hpp"

#include <pybind11/numpy.h>

#include <string>

#include "errors.hpp"

namespace rmsprop::bindings {
namespace {

bool are_names(const py::object& keys) {
  return PyList_Check(keys.ptr()) && PyList_GET_SIZE(keys.ptr()) > 0 && PyUnicode_Check(PyList_GET_ITEM(keys.ptr(), 0));
}

}  // namespace

Gradients::Gradients(const py::object& grads, const py::object& keys, const char* argument)
    : argument_(argument), keys_(keys) {
  if (keys.is_none()) {
    single_ = grads;
  } else if (are_names(keys)) {
    const bool is_mapping = PyDict_Check(grads.ptr()) || (PyMapping_Check(grads.ptr()) && py::hasattr(grads, "keys"));
    if (!is_mapping) raise_kind(grads, "a dict with the names of the parameters");
    by_name_ = py::dict(grads);  // the same object if it is a dict
  } else {
    const bool is_sequence = PySequence_Check(grads.ptr()) && !py::isinstance<py::array>(grads);
    if (!is_sequence) raise_kind(grads, "a sequence of arrays, one for each parameter");
    sequence_ = py::reinterpret_steal<py::object>(PySequence_Fast(grads.ptr(), argument));
    if (!sequence_) throw py::error_already_set();
  }
}

void Gradients::check_count(std::size_t params) const {
  const auto wanted = static_cast<Py_ssize_t>(params);
  if (sequence_ && PySequence_Fast_GET_SIZE(sequence_.ptr()) != wanted) {
    raise_value_error({argument_}, "got " + std::to_string(PySequence_Fast_GET_SIZE(sequence_.ptr())) +
                                       " gradients, wanted " + std::to_string(wanted) + ", one for each parameter");
  }
  if (by_name_ && PyDict_GET_SIZE(by_name_.ptr()) != wanted) check_names();
}

PyObject* Gradients::at(std::size_t index) const {
  if (single_) return single_.ptr();
  const auto i = static_cast<Py_ssize_t>(index);
  if (sequence_) return PySequence_Fast_GET_ITEM(sequence_.ptr(), i);
  PyObject* name = PyList_GET_ITEM(keys_.ptr(), i);
  PyObject* grad = PyDict_GetItemWithError(by_name_.ptr(), name);
  if (grad != nullptr) return grad;
  if (PyErr_Occurred() != nullptr) throw py::error_already_set();
  raise_value_error({argument_}, "nothing for parameter " + repr(name) + " (None would skip it)");
}

void Gradients::raise_kind(const py::object& grads, const char* wanted) const {
  raise_type_error({argument_}, "got " + type_name(grads.ptr()) + ", wanted " + wanted);
}

void Gradients::check_names() const {
  const auto keys = py::reinterpret_borrow<py::list>(keys_);
  for (auto item : py::reinterpret_borrow<py::dict>(by_name_)) {
    if (!keys.contains(item.first)) raise_value_error({argument_}, "unknown parameter " + repr(item.first.ptr()));
  }
}

}  // namespace rmsprop::bindings
