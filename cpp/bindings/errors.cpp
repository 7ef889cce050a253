#include "errors.hpp"

namespace rmsprop::bindings {

std::string repr(PyObject* object) { return py::repr(py::handle(object)).cast<std::string>(); }

std::string type_name(PyObject* object) { return Py_TYPE(object)->tp_name; }

std::string Label::text() const {
  std::string name = argument;
  if (key) name += "[" + repr(key.ptr()) + "]";
  if (entry != nullptr) name += std::string("['") + entry + "']";
  if (attribute != nullptr) name += std::string(".") + attribute;
  return name;
}

void raise_type_error(const Label& label, const std::string& what) { throw py::type_error(label.text() + ": " + what); }

void raise_value_error(const Label& label, const std::string& what) {
  throw py::value_error(label.text() + ": " + what);
}

}  // namespace rmsprop::bindings
