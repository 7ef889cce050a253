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

  // Elements of `dtype`.
  std::int64_t size() const {
    std::int64_t elements = is_complex_ ? 2 : 1;
    for (int d = 0; d < ndim(); ++d) elements *= shape(d);
    return elements;
  }

  bool is_writeable() const { return has(flag_writeable); }
  bool is_aligned() const { return has(flag_aligned); }
  bool is_c_contiguous() const { return has(flag_c_contiguous); }
  bool is_f_contiguous() const { return has(flag_f_contiguous); }
  bool is_contiguous() const { return is_c_contiguous() || is_f_contiguous(); }

  bool same_type(const View& other) const { return dtype_ == other.dtype_ && is_complex_ == other.is_complex_; }
  bool same_shape(const View& other) const {
    if (ndim() != other.ndim()) return false;
    for (int d = 0; d < ndim(); ++d) {
      if (shape(d) != other.shape(d)) return false;
    }
    return true;
  }

 private:
  // Flags of NumPy's C API, part of its stable ABI.
  static constexpr int flag_c_contiguous = 0x1;
  static constexpr int flag_f_contiguous = 0x2;
  static constexpr int flag_aligned = 0x100;
  static constexpr int flag_writeable = 0x400;
  bool has(int flag) const { return (array_->flags & flag) != 0; }

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

// Raises TypeError unless `object` is a NumPy array (not a masked one) of float32, float64, complex64 or complex128 in
// the byte order of this machine.
View view_of(PyObject* object, const Label& label);

// Raises ValueError unless the array can be updated in place: writeable, and no two elements in the same memory.
void check_writeable(const View& view, const Label& label);

// Raises TypeError or ValueError unless both have one element type and one shape.
void check_matches(const View& view, const Label& label, const View& param, const Label& param_label);

// True if the arrays are known, without a look at their strides, to lie dense, aligned and in the same order. Views of
// no array are left out.
bool is_plainly_dense(std::span<const View> views);

// Writes the layout of one operand into `layout`; a complex array gets one more dimension, of its two parts.
void describe(const View& view, Layout& layout, int operand);

// True if two arrays share a byte. For overlapping extents only: it is exact, and slow.
bool shares_memory(const View& a, const View& b);

}  // namespace rmsprop::bindings
