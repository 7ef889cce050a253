// The only place where an untrusted object becomes a pointer.
#pragma once

#include <pybind11/numpy.h>

#include <cstddef>
#include <cstdint>
#include <span>

#include "dlpack.hpp"
#include "errors.hpp"
#include "rmsprop/tensor.hpp"

namespace rmsprop::bindings {

// The type of an array's elements: of each real one, if they are complex.
struct ElementType {
  DType dtype = DType::float32;  // that steps are computed in
  Packing packing = Packing::none;
  bool is_complex = false;

  std::int64_t size() const { return packing == Packing::none ? item_size(dtype) : 2; }
  ElementType of_state() const { return {dtype, Packing::none, is_complex}; }
  bool operator==(const ElementType& other) const = default;
};

// An array whose element type has been checked. Shape and strides are the array's own memory, so a view is as fresh as
// the moment it is made, and valid for as long as the array is left as it is.
class View {
 public:
  View() = default;
  View(py::detail::PyArray_Proxy* array, ElementType type);
  View(PyObject* object, const ForeignArray& array, ElementType type);

  explicit operator bool() const { return object_ != nullptr; }
  PyObject* object() const { return object_; }
  std::byte* data() const { return data_; }
  int ndim() const { return ndim_; }
  std::int64_t shape(int d) const { return shape_[d]; }
  std::int64_t stride(int d) const;  // in bytes

  ElementType type() const { return type_; }
  std::int64_t bytes_per_element() const { return type_.size() * (type_.is_complex ? 2 : 1); }
  std::int64_t size() const;  // real elements

  bool is_writeable() const { return is_writeable_; }
  bool is_aligned() const { return is_aligned_; }
  bool is_contiguous() const { return is_contiguous_; }  // in C order, or, in NumPy's arrays, in Fortran's
  bool is_c_contiguous() const { return is_c_contiguous_; }
  bool same_shape(const View& other) const;

 private:
  PyObject* object_ = nullptr;  // borrowed
  std::byte* data_ = nullptr;
  const std::int64_t* shape_ = nullptr;
  const std::int64_t* strides_ = nullptr;
  std::int64_t stride_unit_ = 1;
  int ndim_ = 0;
  ElementType type_;
  bool is_writeable_ = false;
  bool is_aligned_ = false;
  bool is_contiguous_ = false;
  bool is_c_contiguous_ = false;
};

// The memory from the first byte of the lowest element to the last byte of the highest.
struct Extent {
  const std::byte* begin = nullptr;
  const std::byte* end = nullptr;
};
Extent extent_of(const View& view);

// True for any NumPy array.
bool is_array(PyObject* object);

// True if view_of can look at the object as it is. Any other array has to be `exported` first.
bool is_viewable(PyObject* object);

// Raises TypeError unless `object` is a NumPy array (not a masked one) of float32, float64, complex64 or complex128 in
// the byte order of this machine, or an array of another library, in memory of the CPU, of one of these types or of
// bfloat16 or float16.
View view_of(PyObject* object, const Label& label);

// What raises it for arrays of other libraries, which a caller may want to raise as something else.
struct UnusableArray : py::type_error {
  using py::type_error::type_error;
};

// True if an array of PyTorch holds its elements negated or conjugated, so that its memory is not what it says.
bool is_lazy(const View& view);

// Raises ValueError unless the array can be updated in place: writeable, and no two elements in the same memory.
void check_writeable(const View& view, const Label& label);

// Raises TypeError or ValueError unless the array has the parameter's shape, and its element type or, if it is state,
// the type that the parameter's steps are computed in.
void check_matches(const View& view, const Label& label, const View& param, const Label& param_label, bool is_state);

// Accepts the ordinary case in few instructions: plain arrays of one supported type and one shape, in C order, aligned,
// and writeable but for the gradient; all NumPy's, or all of a type that has the exchange API of DLPack. Fills in the
// tensor's data, size and type then. Says nothing about what is wrong otherwise; the functions above do.
bool describe_ordinary(std::span<PyObject* const, operand_count> objects, Tensor& tensor);

// Writes the layout of one operand into `layout`; a complex array gets one more dimension, of its two parts.
void describe(const View& view, Layout& layout, int operand);

// The entries of a dense, writeable int64 array with one entry for each of `count` parameters. Raises if it is anything
// else.
std::int64_t* counts_of(PyObject* object, std::size_t count, const Label& label);

// True if two arrays share a byte. For overlapping extents only: it is exact, and slow.
bool shares_memory(const View& a, const View& b);

}  // namespace rmsprop::bindings
