#include "gather.hpp"

#include <utility>

namespace rmsprop::bindings {

void Gathered::make_room(std::size_t params) {
  if (params <= objects_.size()) return;
  params_.resize(params);
  objects_.resize(params);
}

void Gathered::clear() {
  const std::size_t size = std::exchange(size_, 0);
  ends_.clear();
  if (!std::exchange(holds_, holds_from_the_start)) return;
  // A destructor may run Python code, but none that can reach these.
  for (std::size_t i = 0; i < size; ++i) {
    for (PyObject* object : objects_[i]) Py_XDECREF(object);
  }
}

void Gathered::hold() {
  if (std::exchange(holds_, true)) return;
  for (const Objects& objects : this->objects()) {
    for (PyObject* object : objects) Py_XINCREF(object);
  }
}

}  // namespace rmsprop::bindings
