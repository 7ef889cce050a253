#include "messages.hpp"

#include <stdexcept>
#include <string_view>

namespace rmsprop::bindings {
namespace {

// An attribute as text, or nothing: what a hostile object raises must not hide the problem with it.
std::string attribute_text(PyObject* object, const char* name) {
  try {
    const py::object value = py::getattr(py::handle(object), name, py::none());
    return value.is_none() ? "" : py::str(value).cast<std::string>();
  } catch (const std::exception&) {
    return "";
  }
}

// Everything that identifies the array: "Tensor, dtype torch.int64, layout torch.strided, device cpu".
std::string description(PyObject* object) {
  std::string text = type_name(object);
  for (const char* name : {"dtype", "layout", "device"}) {
    const std::string value = attribute_text(object, name);
    if (!value.empty()) text += std::string(", ") + name + " " + value;
  }
  return text;
}

template <class Text>
void replace(std::string& text, std::string_view placeholder, Text replacement) {
  const auto place = text.find(placeholder);
  if (place != std::string::npos) text.replace(place, placeholder.size(), replacement());
}

}  // namespace

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

void raise(const Problem& problem, const Label& label, const Label& param, PyObject* array, bool like_torch) {
  std::string text = problem.what;
  replace(text, "{found}", [&] { return description(array); });
  replace(text, "{dtype}", [&] { return attribute_text(array, "dtype"); });
  replace(text, "{param}", [&] { return param.text(); });
  text = label.text() + ": " + text;
  if (problem.error == Problem::Error::value) throw py::value_error(text);
  if (problem.error == Problem::Error::unusable && like_torch) throw std::runtime_error(text);
  throw py::type_error(text);
}

}  // namespace rmsprop::bindings
