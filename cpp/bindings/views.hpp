// The only place where an untrusted object becomes a pointer.
#pragma once

#include <pybind11/numpy.h>

#include <cstddef>
#include <cstdint>
#include <span>

#include "errors.hpp"
#include "rmsprop/tensor.hpp"

namespace rmsprop::bindings {

// An array whose element type has been checked. Everything else is read from the array itself, so a view is as fresh as
// the moment it is looked at, and valid for as long as the array lives.
class View {
 public:
  View() = default;
  View(PyObject* array, DType dtype, bool is_complex)
      : array_(py::detail::array_proxy(array)), dtype_(dtype), is_complex_(is_complex) {}

  explicit operator bool() const { return array_ != nullptr; }
  PyObject* object() const { return reinterpret_cast<PyObject*>(const_cast<py::detail::PyArray_Proxy*>(array_)); }
  std::byte* data() const { return reinterpret_cast<std::byte*>(array_->data); }
  int ndim() const { return array_->nd; }
  std::int64_t shape(int d) const { return array_->dimensions[d]; }
  std::int64_t stride(int d) const { return array_->strides[d]; }  // in bytes

  DType dtype() const { return dtype_; }           // of the elements that the engine sees
  bool is_complex() const { return is_complex_; }  // each element of the array is two of them
  std::int64_t bytes_per_element() const { return item_size(dtype_) * (is_complex_ ? 2 : 1); }

  std::int64_t size() const;  // elements of `dtype`

  bool is_writeable() const;
  bool is_aligned() const;
  bool is_contiguous() const;  // in C or Fortran order
  bool is_c_contiguous() const;
  bool same_type(const View& other) const { return dtype_ == other.dtype_ && is_complex_ == other.is_complex_; }
  bool same_shape(const View& other) const;

 private:
  const py::detail::PyArray_Proxy* array_ = nullptr;  // borrowed
  DType dtype_ = DType::float32;
  bool is_complex_ = false;
};

// The memory from the first byte of the lowest element to the last byte of the highest.
struct Extent {
  const std::byte* begin = nullptr;
  const std::byte* end = nullptr;
};
Extent extent_of(const View& view);

// True for any NumPy array.
bool is_array(PyObject* object);

// Raises TypeError unless `object` is a NumPy array (not a masked one) of float32, float64, complex64 or complex128 in
// the byte order of this machine.
View view_of(PyObject* object, const Label& label);

// Raises ValueError unless the array can be updated in place: writeable, and no two elements in the same memory.
void check_writeable(const View& view, const Label& label);

// Raises TypeError or ValueError unless both have one element type and one shape.
void check_matches(const View& view, const Label& label, const View& param, const Label& param_label);

// Accepts the ordinary case in few instructions: plain arrays of one supported type and one shape, in C order, aligned,
// and writeable but for the gradient. Fills in the tensor's data, size and type then. Says nothing about what is wrong
// otherwise; the functions above do.
bool describe_ordinary(std::span<PyObject* const, operand_count> objects, Tensor& tensor);

// Writes the layout of one operand into `layout`; a complex array gets one more dimension, of its two parts.
void describe(const View& view, Layout& layout, int operand);

// The entries of a dense, writeable int64 array with one entry for each of `count` parameters. Raises if it is anything
// else.
std::int64_t* counts_of(PyObject* object, std::size_t count, const Label& label);

// True if two arrays share a byte. For overlapping extents only: it is exact, and slow.
bool shares_memory(const View& a, const View& b);

}  // namespace rmsprop::bindings
