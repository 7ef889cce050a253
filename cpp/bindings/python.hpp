// Python's containers, read so that nothing in them is freed or changed meanwhile: by this thread's own Python code,
// or, where there is no GIL, by other threads.
#pragma once

#include <pybind11/pybind11.h>

#include <chrono>
#include <cstddef>
#include <thread>

namespace rmsprop::bindings {

namespace py = pybind11;

inline py::object owned(PyObject* borrowed) { return py::reinterpret_borrow<py::object>(borrowed); }

// Lets other threads run Python meanwhile. When the process exits, CPython before 3.14 ends any daemon thread that asks
// for the GIL, by unwinding its stack, which a destructor must not let through: here the thread stays where it is, as
// it does in later versions.
class GilReleased {
 public:
  GilReleased() : thread_(PyEval_SaveThread()) {}
  ~GilReleased() {
    try {
      PyEval_RestoreThread(thread_);
    } catch (...) {
      for (;;) std::this_thread::sleep_for(std::chrono::hours(1));
    }
  }
  GilReleased(const GilReleased&) = delete;
  GilReleased& operator=(const GilReleased&) = delete;

 private:
  PyThreadState* thread_;
};

// For classes whose objects only C++ makes: to Python's `__new__` they would be memory with nothing in it.
inline void refuse_new(const py::type& type) {
  reinterpret_cast<PyTypeObject*>(type.ptr())->tp_new = [](PyTypeObject* made, PyObject*, PyObject*) -> PyObject* {
    PyErr_Format(PyExc_TypeError, "%s: not to be made by hand", made->tp_name);
    return nullptr;
  };
}

// The value of a key, or null. Keys are compared, which may run Python code.
inline py::object find(PyObject* dict, PyObject* key) {
#if PY_VERSION_HEX >= 0x030D0000
  PyObject* value = nullptr;
  if (PyDict_GetItemRef(dict, key, &value) < 0) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(value);
#else
  PyObject* value = PyDict_GetItemWithError(dict, key);
  if (value == nullptr && PyErr_Occurred() != nullptr) throw py::error_already_set();
  return owned(value);
#endif
}

// An item of a list, or null beyond its end, which other code may change at any time.
inline py::object item_of(PyObject* list, std::size_t i) {
  const auto place = static_cast<Py_ssize_t>(i);
#if defined(Py_GIL_DISABLED)
  if (place >= PyList_GET_SIZE(list)) return {};
  auto item = py::reinterpret_steal<py::object>(PyList_GetItemRef(list, place));
  if (!item) PyErr_Clear();
  return item;
#else
  return place < PyList_GET_SIZE(list) ? owned(PyList_GET_ITEM(list, place)) : py::object();
#endif
}

// Keeps other threads from changing a container while it is read, if there is no GIL.
class Locked {
 public:
#if defined(Py_GIL_DISABLED)
  explicit Locked(PyObject* object) { PyCriticalSection_Begin(&section_, object); }
  ~Locked() { PyCriticalSection_End(&section_); }

 private:
  PyCriticalSection section_;

 public:
#else
  explicit Locked(PyObject* /*object*/) {}
#endif
  Locked(const Locked&) = delete;
  Locked& operator=(const Locked&) = delete;
};

// The items of a list or tuple, which its owner keeps alive, or a single object. With a GIL they are the list's own:
// good until Python code runs. Without it they are those of a copy, which holds them.
class Items {
 public:
  Items() = default;
  explicit Items(PyObject* sequence) {
#if defined(Py_GIL_DISABLED)
    copy_ = py::reinterpret_steal<py::object>(PySequence_Tuple(sequence));
    if (!copy_) throw py::error_already_set();
    sequence = copy_.ptr();
#endif
    size_ = static_cast<std::size_t>(PySequence_Fast_GET_SIZE(sequence));
    items_ = PySequence_Fast_ITEMS(sequence);
  }

  // Of an object that stays where it is.
  static Items of_one(PyObject* const& object) {
    Items items;
    items.items_ = &object;
    items.size_ = 1;
    return items;
  }

  std::size_t size() const { return size_; }
  PyObject* operator[](std::size_t i) const { return items_[i]; }
  PyObject* const* begin() const { return items_; }
  PyObject* const* end() const { return items_ + size_; }

 private:
#if defined(Py_GIL_DISABLED)
  py::object copy_;
#endif
  PyObject* const* items_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace rmsprop::bindings
