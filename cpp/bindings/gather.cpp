#include "gather.hpp"

namespace rmsprop::bindings {

void Gathered::clear() {
  if (holds_) {
    holds_ = false;
    // A destructor may run Python code, but none that can reach these.
    for (const Objects& objects : objects_) {
      for (PyObject* object : objects) Py_XDECREF(object);
    }
  }
  params_.clear();
  objects_.clear();
  ends_.clear();
}

void Gathered::hold() {
  if (holds_) return;
  holds_ = true;
  for (const Objects& objects : objects_) {
    for (PyObject* object : objects) Py_XINCREF(object);
  }
}

}  // namespace rmsprop::bindings
