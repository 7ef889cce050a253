#include "gradients.hpp"

#include <pybind11/numpy.h>

#include <algorithm>
#include <string>

#include "../arrays/lazy.hpp"
#include "../arrays/views.hpp"
#include "../messages.hpp"

namespace rmsprop::bindings {
namespace {

bool are_names(PyObject* keys) {
  const Items names(keys);
  return names.size() > 0 && PyUnicode_Check(names[0]);
}

bool is_foreign(PyObject* grad) { return !is_exact_array(grad) && grad != Py_None && !is_array(grad); }

// The parameter of this index, or null.
py::object param_of(const std::vector<Group>& groups, std::size_t index) {
  for (const Group& group : groups) {
    const auto own = static_cast<std::size_t>(PyList_GET_SIZE(group.params().ptr()));
    if (index < own) return item_of(group.params().ptr(), index);
    index -= own;
  }
  return {};
}

// The same gradient as an array that look() accepts; itself if there is none.
py::object converted(const py::object& grad, const std::vector<Group>& groups, std::size_t index) {
  if (is_numpy_scalar(grad.ptr())) {
    const py::object param = param_of(groups, index);
    const bool has_no_dimensions = param && is_array(param.ptr()) && py::array(param).ndim() == 0;
    return has_no_dimensions ? py::object(py::module_::import("numpy").attr("asarray")(grad)) : grad;
  }
  py::object capsule = exported(grad.ptr());
  return capsule ? capsule : grad;
}

}  // namespace

GradientsArgument::GradientsArgument(const py::object& grads, PyObject* keys, const std::vector<Group>& groups,
                                     const char* argument)
    : argument_(argument) {
  if (keys == Py_None) {
    if (PyList_Check(grads.ptr()) || PyTuple_Check(grads.ptr()) || PyDict_Check(grads.ptr())) {
      raise_kind(grads, "one numpy.ndarray, since the parameter is one array, too, in no list or dict");
    }
    const bool is_viewed = is_viewable(grads.ptr()) || grads.is_none();
    if (is_foreign(grads.ptr()) && is_viewed && is_lazy(grads.ptr())) {
      raise(lazy_problem(), {argument_}, {}, grads.ptr(), false);
    }
    single_owner_ = is_viewed ? grads : converted(grads, groups, 0);
    single_ = single_owner_.ptr();
    return;
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
  make_viewable(keys, groups);
}

void GradientsArgument::make_viewable(PyObject* keys, const std::vector<Group>& groups) {
  const Items grads(sequence_.ptr());
  if (std::none_of(grads.begin(), grads.end(), is_foreign)) return;
  const auto own = py::reinterpret_steal<py::list>(PySequence_List(sequence_.ptr()));
  if (!own) throw py::error_already_set();
  for (py::size_t i = 0; i < own.size(); ++i) {
    const py::object grad = own[i];
    if (!is_foreign(grad.ptr())) continue;
    if (!is_viewable(grad.ptr())) {
      own[i] = converted(grad, groups, i);
    } else if (is_lazy(grad.ptr())) {
      const py::object key = keys == Py_None ? py::object() : item_of(keys, i);
      raise(lazy_problem(), {argument_, key}, {}, grad.ptr(), false);
    }
  }
  sequence_ = own;
}

// Names are compared, which may run Python code: so every reference here is owned.
py::list GradientsArgument::in_order_of(PyObject* names, const py::dict& grads) const {
  py::list ordered;
  const auto keys = py::reinterpret_steal<py::list>(PyList_GetSlice(names, 0, PyList_GET_SIZE(names)));
  if (!keys) throw py::error_already_set();
  for (const py::handle name : keys) {
    const py::object grad = find(grads.ptr(), name.ptr());
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

Items GradientsArgument::items(std::size_t params) const {
  const Items items = single_ != nullptr ? Items::of_one(single_) : Items(sequence_.ptr());
  if (items.size() != params) {
    raise_value_error({argument_}, "got " + std::to_string(items.size()) + " gradients, wanted " +
                                       std::to_string(params) + ", one for each parameter");
  }
  return items;
}

void GradientsArgument::raise_kind(const py::object& grads, const char* wanted) const {
  raise_type_error({argument_}, "got " + type_name(grads.ptr()) + ", wanted " + wanted);
}

}  // namespace rmsprop::bindings
