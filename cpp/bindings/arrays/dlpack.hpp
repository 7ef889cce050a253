// Arrays of other libraries, through DLPack: their memory, shape and type, without a copy.
//
// The structures are those of DLPack 1.3 (https://dmlc.github.io/dlpack/latest/c_api.html), whose binary layout is
// fixed for all versions 1.x.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>

namespace rmsprop::bindings {

namespace py = pybind11;

namespace dlpack {

enum DeviceType : std::int32_t { cpu = 1, cuda_host = 3, rocm_host = 11 };  // those whose memory a CPU can use
enum TypeCode : std::uint8_t { signed_int = 0, unsigned_int = 1, real = 2, bfloat = 4, complex = 5 };

struct Device {
  std::int32_t type;
  std::int32_t id;
};

struct DataType {
  std::uint8_t code;
  std::uint8_t bits;
  std::uint16_t lanes;
  bool operator==(const DataType& other) const = default;
};

struct Tensor {
  void* data;
  Device device;
  std::int32_t ndim;
  DataType dtype;
  std::int64_t* shape;
  std::int64_t* strides;  // in elements; null: in C order
  std::uint64_t byte_offset;
};

}  // namespace dlpack

// An array seen through DLPack. Shape and strides are the array's own.
struct ForeignArray {
  dlpack::Tensor tensor = {};
  bool is_read_only = false;
};

// True for a subclass of PyTorch's tensors with a `__torch_dispatch__` of its own, such as DTensor. It runs Python code
// whenever its sizes are read, and may have no memory, so a step does not accept it as an array.
bool has_own_dispatch(PyTypeObject* type);

// True for a type whose arrays can be read in a few instructions: PyTorch's tensors, from PyTorch 2.10 on, which
// have DLPack's C exchange API, unless they have a dispatch of their own. Neither this nor look_at() runs Python code.
bool has_exchange_api(PyTypeObject* type);

// Describes an array of such a type, or of a capsule that `exported` returned. The description is valid while the array
// and its memory are not changed. False, with no Python error set, if it has no memory that DLPack could describe, or
// if the description in a capsule is impossible.
bool look_at(PyObject* array, ForeignArray& result);

// The same, but false for capsules, too.
bool look_through_api(PyObject* array, ForeignArray& result);

// True for what `exported` returns.
bool is_capsule(PyObject* object);

// Calls `array.__dlpack__()` of any other array, which runs its Python code, takes the array of the capsule that it
// returns, and returns a capsule of our own, which keeps the memory alive. Null if the object is not such an array, or
// refuses, or returns anything else. Memory that the library would have to copy is refused.
py::object exported(PyObject* array);

}  // namespace rmsprop::bindings
