// The only place where an untrusted object becomes a pointer. Nothing here runs Python code.
#pragma once

#include <pybind11/numpy.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "../messages.hpp"
#include "dlpack.hpp"
#include "rmsprop/tensor.hpp"

namespace rmsprop::bindings {

// The type of an array's elements: of each real one, if they are complex. Formats that differ only in how numbers
// become elements have the same type: `bfloat16` is any of bfloat16, and `unsigned8` any of bytes.
struct ElementType {
  DType dtype = DType::float32;  // the compute type
  Packing packing = Packing::none;
  bool is_complex = false;

  std::int64_t size() const { return item_size(packing, dtype); }
  bool operator==(const ElementType& other) const = default;
};

// How the group of a parameter stores it and what belongs to it.
struct StorageTypes {
  StateDType state_dtype = StateDType::computed;
  bool is_split = false;
  bool is_stochastic = false;  // its parameters of bfloat16
  bool has_ema = false;

  // All state has the compute type of the parameter, and there is none but that of a formula.
  bool is_ordinary() const { return state_dtype == StateDType::computed && !is_split && !is_stochastic && !has_ema; }
};

// An array whose element type has been checked. Shape and strides are the array's own memory, so a view shows
// the array at the moment it is made, and is valid until the array changes.
class View {
 public:
  View() = default;
  View(py::detail::PyArray_Proxy* array, ElementType type);
  View(const ForeignArray& array, ElementType type);

  explicit operator bool() const { return is_array_; }
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
  std::byte* data_ = nullptr;
  const std::int64_t* shape_ = nullptr;
  const std::int64_t* strides_ = nullptr;
  std::int64_t stride_unit_ = 1;
  int ndim_ = 0;
  ElementType type_;
  bool is_array_ = false;
  bool is_writeable_ = false;
  bool is_aligned_ = false;
  bool is_contiguous_ = false;
  bool is_c_contiguous_ = false;
};

// The type of NumPy's arrays, from the import of this module on.
inline PyTypeObject* array_type = nullptr;
void import_numpy();

// True for any NumPy array, or only for one whose type is no subclass.
inline bool is_array(PyObject* object) { return PyObject_TypeCheck(object, array_type); }
inline bool is_exact_array(PyObject* object) { return Py_TYPE(object) == array_type; }

// True for a NumPy scalar, such as the result of an operator on arrays without dimensions.
bool is_numpy_scalar(PyObject* object);

// True if look() accepts the object as it is. Any other array has to be `exported` first.
bool is_viewable(PyObject* object);

// Makes a view of an array: a NumPy array (not a masked one) of float32, float64, complex64, complex128, bfloat16 or
// float16 in the byte order of this machine, or an array of another library, in memory of the CPU, of one of these
// types. State may also be of bytes. Returns the problem with any other object.
std::optional<Problem> look(PyObject* object, View& view, Operand operand);

// The problem with a parameter that cannot be stored in this way, or its state.
std::optional<Problem> problem_with_storage_of(const View& param, const StorageTypes& types);

// The storage format of a parameter.
Packing param_packing(const View& param, const StorageTypes& types);

// The problem with an array that is to be updated in place: it is read-only, or two of its elements share memory.
std::optional<Problem> problem_with_writing(const View& view);

// The problem with an array that belongs to a parameter: its shape, or its element type. State is stored as `types`
// say, otherwise in the compute type of the parameter. A gradient has any type that is computed in that type.
std::optional<Problem> problem_beside(const View& param, const View& view, Operand operand, const StorageTypes& types);

// The fast path: accepts plain arrays of one shape, in C order, aligned, of types that fit
// each other, and writeable but for the gradient; all NumPy's, or all of a type that has the exchange API of DLPack.
// For state of the compute type alone. Fills in the tensor's data, size and type then. Otherwise the functions above
// find the problem, if there is one.
bool describe_ordinary(std::span<PyObject* const, array_count> objects, Tensor& tensor);

// Writes the layout of one operand into `layout`; a complex array gets one more dimension, of its two parts.
void describe(const View& view, Layout& layout, int operand);

// The entries of a dense, writeable int64 array with one entry for each of `count` parameters. Null if it is anything
// else.
std::int64_t* counts_of(PyObject* object, std::size_t count);

}  // namespace rmsprop::bindings
