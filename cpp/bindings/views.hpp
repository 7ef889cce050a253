// The only place where an untrusted object becomes a pointer.
#pragma once

#include <pybind11/numpy.h>

#include <cstddef>
#include <cstdint>

#include "errors.hpp"
#include "rmsprop/tensor.hpp"

namespace rmsprop::bindings {

// What has been checked of an array. Valid as long as no Python code runs.
struct View {
  PyObject* array = nullptr;  // borrowed
  std::byte* data = nullptr;
  int ndim = 0;
  int flags = 0;
  const Py_ssize_t* shape = nullptr;
  const Py_ssize_t* strides = nullptr;  // in bytes
  DType dtype = DType::float32;         // of the elements the engine sees
  bool is_complex = false;              // each element is two of them

  std::int64_t size() const;  // elements of `dtype`
  std::int64_t bytes_per_element() const { return item_size(dtype) * (is_complex ? 2 : 1); }
  bool is_writeable() const;
  bool same_type(const View& other) const { return dtype == other.dtype && is_complex == other.is_complex; }
  bool same_shape(const View& other) const;
};

// The memory from the first byte of the lowest element to the last byte of the highest.
struct Extent {
  const std::byte* begin = nullptr;
  const std::byte* end = nullptr;
};
Extent extent_of(const View& view);

// Raises TypeError unless `object` is a NumPy array (not a masked one) of float32, float64, complex64 or complex128 in
// the byte order of this machine.
View view_of(PyObject* object, const Label& label);

// Raises ValueError unless the array can be updated in place: writeable, and no two elements in the same memory.
void check_writeable(const View& view, const Label& label);

// Raises TypeError or ValueError unless both have one element type and one shape.
void check_matches(const View& view, const Label& label, const View& param, const Label& param_label);

// True if the arrays are known, without a look at their strides, to lie dense, aligned and in the same order.
bool is_plainly_dense(const View* views, int count);

// Writes the layout of one operand into `layout`; a complex array gets one more dimension, of its two parts.
void describe(const View& view, Layout& layout, int operand);

// True if two arrays share a byte. For overlapping extents only: it is exact, and slow.
bool shares_memory(const View& a, const View& b);

}  // namespace rmsprop::bindings
