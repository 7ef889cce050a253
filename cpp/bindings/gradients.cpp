#include "gradients.hpp"

#include <algorithm>
#include <string>

#include "errors.hpp"
#include "views.hpp"

namespace rmsprop::bindings {
namespace {

bool are_names(PyObject* keys) {
  return PyList_Check(keys) && PyList_GET_SIZE(keys) > 0 && PyUnicode_Check(PyList_GET_ITEM(keys, 0));
}

}  // namespace

Gradients::Gradients(const py::object& grads, PyObject* keys, const char* argument) : argument_(argument) {
  if (keys == Py_None) {
    set_single(grads);
  } else if (are_names(keys)) {
    const bool is_mapping = PyDict_Check(grads.ptr()) || (PyMapping_Check(grads.ptr()) && py::hasattr(grads, "keys"));
    if (!is_mapping) raise_kind(grads, "a dict with the names of the parameters");
    sequence_ = in_order_of(keys, py::dict(grads));
  } else {
    const bool is_sequence = PySequence_Check(grads.ptr()) && !is_array(grads.ptr());
    if (!is_sequence) raise_kind(grads, "a sequence of arrays, one for each parameter");
    sequence_ = py::reinterpret_steal<py::object>(PySequence_Fast(grads.ptr(), argument));
    if (!sequence_) throw py::error_already_set();
  }
  export_foreign();
}

void Gradients::export_foreign() {
  const auto is_foreign = [](PyObject* grad) { return grad != Py_None && !is_viewable(grad); };
  if (!sequence_) {
    if (!is_foreign(single_)) return;
    if (py::object capsule = exported(single_)) set_single(capsule);
    return;
  }
  const Py_ssize_t count = PySequence_Fast_GET_SIZE(sequence_.ptr());
  PyObject* const* grads = PySequence_Fast_ITEMS(sequence_.ptr());
  if (std::none_of(grads, grads + count, is_foreign)) return;
  const auto own = py::reinterpret_steal<py::list>(PySequence_List(sequence_.ptr()));
  for (py::size_t i = 0; i < own.size(); ++i) {
    const py::object grad = own[i];
    if (!is_foreign(grad.ptr())) continue;
    if (py::object capsule = exported(grad.ptr())) own[i] = capsule;
  }
  sequence_ = own;
}

void Gradients::set_single(const py::object& grad) {
  single_owner_ = grad;
  single_ = grad.ptr();
}

// Names are compared, which can run Python code: so every reference here is an owned one.
py::list Gradients::in_order_of(PyObject* names, const py::dict& grads) const {
  py::list ordered;
  const auto keys = py::reinterpret_steal<py::list>(PyList_GetSlice(names, 0, PyList_GET_SIZE(names)));
  for (const py::handle name : keys) {
    const auto grad = py::reinterpret_borrow<py::object>(PyDict_GetItemWithError(grads.ptr(), name.ptr()));
    if (!grad && PyErr_Occurred() != nullptr) throw py::error_already_set();
    if (!grad) raise_value_error({argument_}, "nothing for parameter " + repr(name.ptr()) + " (None would skip it)");
    ordered.append(grad);
  }
  if (grads.size() > ordered.size()) {
    for (const py::handle name : py::list(grads)) {
      if (!keys.contains(name)) raise_value_error({argument_}, "unknown parameter " + repr(name.ptr()));
    }
  }
  return ordered;
}

void Gradients::check_count(std::size_t params) const {
  const auto wanted = static_cast<Py_ssize_t>(params);
  if (sequence_ && PySequence_Fast_GET_SIZE(sequence_.ptr()) != wanted) {
    raise_value_error({argument_}, "got " + std::to_string(PySequence_Fast_GET_SIZE(sequence_.ptr())) +
                                       " gradients, wanted " + std::to_string(wanted) + ", one for each parameter");
  }
}

PyObject* const* Gradients::items() const { return sequence_ ? PySequence_Fast_ITEMS(sequence_.ptr()) : &single_; }

void Gradients::raise_kind(const py::object& grads, const char* wanted) const {
  raise_type_error({argument_}, "got " + type_name(grads.ptr()) + ", wanted " + wanted);
}

}  // namespace rmsprop::bindings
