// Messages of errors: the argument, what was found, what was wanted.
//
// Names and descriptions come from Python objects, whose code may change what is being checked. So a check returns a
// `Problem` without any name; the message is made afterwards, when all objects are held.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
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

// The problem with one array. Plain data, made without running Python code.
struct Problem {
  enum class Error : std::uint8_t {
    type,     // TypeError
    value,    // ValueError
    unusable  // TypeError, but for PyTorch RuntimeError, as there
  };
  Error error;
  // {found} stands for a description of the array, {dtype} for its dtype, {param} for the name of its parameter.
  std::string what;
};

// Messages are `label: what`.
[[noreturn]] void raise_type_error(const Label& label, const std::string& what);
[[noreturn]] void raise_value_error(const Label& label, const std::string& what);

// Raises a problem of `array`, which has this label, and whose parameter has the label `param`.
[[noreturn]] void raise(const Problem& problem, const Label& label, const Label& param, PyObject* array,
                        bool like_torch);

std::string type_name(PyObject* object);
std::string repr(PyObject* object);

}  // namespace rmsprop::bindings
