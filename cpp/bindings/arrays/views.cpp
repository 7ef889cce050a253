#include "views.hpp"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <string>
#include <utility>

namespace rmsprop::bindings {
namespace {

// Flags of NumPy's C API, part of its stable ABI.
constexpr int flag_c_contiguous = 0x1;
constexpr int flag_f_contiguous = 0x2;
constexpr int flag_aligned = 0x100;
constexpr int flag_writeable = 0x400;

// The types of arrays that are accepted: NumPy's, and one that other packages add to NumPy.
constexpr std::array<const char*, 7> type_names = {"float32", "float64", "complex64", "complex128",
                                                   "float16", "uint8",   "int16"};
constexpr std::array<ElementType, 7> element_types = {{{DType::float32, Packing::none, false},
                                                       {DType::float64, Packing::none, false},
                                                       {DType::float32, Packing::none, true},
                                                       {DType::float64, Packing::none, true},
                                                       {DType::float32, Packing::float16, false},
                                                       {DType::float32, Packing::unsigned8, false},
                                                       {DType::float32, Packing::lower_half, false}}};
constexpr ElementType bfloat16_type = {DType::float32, Packing::bfloat16, false};
constexpr const char* accepted_types = "float32, float64, complex64, complex128, bfloat16 or float16";

// Objects that NumPy keeps until the process ends.
std::array<PyObject*, 7> descriptors = {};  // one for each of NumPy's types, in the machine's byte order
PyObject* int64_descriptor = nullptr;
PyTypeObject* scalar_type = nullptr;

// By its name: the type may not have been imported, and looking it up among the modules could run Python code.
bool is_masked(PyObject* array) {
  PyObject* bases = Py_TYPE(array)->tp_mro;
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(bases); ++i) {
    const auto* type = reinterpret_cast<PyTypeObject*>(PyTuple_GET_ITEM(bases, i));
    if (std::strcmp(type->tp_name, "MaskedArray") == 0) return true;
  }
  return false;
}

Problem type_problem(std::string what) { return {Problem::Error::type, std::move(what)}; }
Problem value_problem(std::string what) { return {Problem::Error::value, std::move(what)}; }
Problem unusable(const std::string& wanted) { return {Problem::Error::unusable, "got {found}, wanted " + wanted}; }

// By its name, for the reason given above: ml_dtypes adds this type to NumPy.
bool is_bfloat16(PyObject* descriptor) {
  const auto* proxy = py::detail::array_descriptor_proxy(descriptor);
  const auto* type = reinterpret_cast<const PyTypeObject*>(proxy->typeobj);
  if (type == nullptr || proxy->byteorder == '>' || proxy->byteorder == '<') return false;
  const char* dot = std::strrchr(type->tp_name, '.');
  const char* name = dot == nullptr ? type->tp_name : dot + 1;
  return std::strcmp(name, "bfloat16") == 0 && py::reinterpret_borrow<py::dtype>(descriptor).itemsize() == 2;
}

std::optional<ElementType> element_type_of(PyObject* descriptor) {
  for (std::size_t i = 0; i < type_names.size(); ++i) {
    if (descriptor == descriptors[i]) return element_types[i];
  }
  if (is_bfloat16(descriptor)) return bfloat16_type;
  // A dtype can equal one of ours without being the same object, such as one with metadata.
  for (std::size_t i = 0; i < type_names.size(); ++i) {
    if (py::handle(descriptor).equal(py::handle(descriptors[i]))) return element_types[i];
  }
  return std::nullopt;
}

// The element type of an array of DLPack, if it is supported.
std::optional<ElementType> element_type_of(const dlpack::DataType& type) {
  const auto is = [&](dlpack::TypeCode code, int bits) { return type.code == code && type.bits == bits; };
  if (type.lanes != 1) return std::nullopt;
  if (is(dlpack::real, 32)) return ElementType{DType::float32, Packing::none, false};
  if (is(dlpack::real, 64)) return ElementType{DType::float64, Packing::none, false};
  if (is(dlpack::complex, 64)) return ElementType{DType::float32, Packing::none, true};
  if (is(dlpack::complex, 128)) return ElementType{DType::float64, Packing::none, true};
  if (is(dlpack::bfloat, 16)) return bfloat16_type;
  if (is(dlpack::real, 16)) return ElementType{DType::float32, Packing::float16, false};
  if (is(dlpack::unsigned_int, 8)) return ElementType{DType::float32, Packing::unsigned8, false};
  if (is(dlpack::signed_int, 16)) return ElementType{DType::float32, Packing::lower_half, false};
  return std::nullopt;
}

bool is_in_cpu_memory(const dlpack::Tensor& tensor) {
  const std::int32_t type = tensor.device.type;
  return type == dlpack::cpu || type == dlpack::cuda_host || type == dlpack::rocm_host;
}

// Null where there is no memory. A view of memory that was freed may be as far from null as it was from the beginning;
// no system has memory in the first pages.
std::byte* data_of(const dlpack::Tensor& tensor) {
  constexpr std::uintptr_t least_address = 1 << 16;
  if (tensor.data == nullptr) return nullptr;
  std::byte* data = static_cast<std::byte*>(tensor.data) + tensor.byte_offset;
  return reinterpret_cast<std::uintptr_t>(data) < least_address ? nullptr : data;
}

// In C order, with exactly the strides of that order. PyTorch's definition of contiguous is wider: it ignores the
// strides of dimensions of length 1. An array without elements is in any order.
bool is_canonical(const dlpack::Tensor& tensor) {
  if (tensor.strides == nullptr || std::find(tensor.shape, tensor.shape + tensor.ndim, 0) != tensor.shape + tensor.ndim)
    return true;
  std::int64_t stride = 1;
  for (int d = tensor.ndim - 1; d >= 0; --d) {
    if (tensor.strides[d] != stride) return false;
    stride *= tensor.shape[d];
  }
  return true;
}

// Parameters and gradients are numbers, and not parts or codes of some.
bool is_number(const ElementType& type) {
  return type.packing != Packing::unsigned8 && type.packing != Packing::lower_half;
}

bool is_accepted(const ElementType& type, Operand operand) { return operand > grad || is_number(type); }

std::optional<Problem> look_at_foreign(PyObject* object, View& view, Operand operand) {
  ForeignArray array;
  if (!look_at(object, array) || !is_in_cpu_memory(array.tensor)) {
    return unusable("a dense array in the memory of the CPU");
  }
  const auto type = element_type_of(array.tensor.dtype);
  if (!type || !is_accepted(*type, operand)) return type_problem(std::string("got {found}, wanted ") + accepted_types);
  view = View(array, *type);
  if (view.data() == nullptr && view.size() > 0) return unusable("an array with memory of its own");
  if (view.ndim() >= Layout::max_dims) return unusable("at most 64 dimensions");
  return std::nullopt;
}

// As Python shows a tuple.
std::string shape_text(const View& view) {
  std::string text = "(";
  for (int d = 0; d < view.ndim(); ++d) text += (d == 0 ? "" : ", ") + std::to_string(view.shape(d));
  return text + (view.ndim() == 1 ? ",)" : ")");
}

std::string type_text(ElementType type) {
  if (type.packing == Packing::unsigned8) return "uint8";
  if (type.packing == Packing::lower_half) return "int16";
  if (type.packing != Packing::none) return type.packing == Packing::bfloat16 ? "bfloat16" : "float16";
  return type_names[(type.is_complex ? 2 : 0) + (type.dtype == DType::float64 ? 1 : 0)];
}

// True if every stride is larger than the extent of all smaller dimensions together: then no two elements share memory.
// Arrays that fail this without overlapping can only be made with explicit strides; they are refused too.
bool elements_are_apart(const View& view) {
  std::array<std::pair<std::int64_t, std::int64_t>, Layout::max_dims> dims;  // (stride, length)
  int n = 0;
  for (int d = 0; d < view.ndim(); ++d) {
    if (view.shape(d) > 1) dims[n++] = {std::abs(view.stride(d)), view.shape(d)};
  }
  std::sort(dims.begin(), dims.begin() + n);
  std::int64_t reach = view.bytes_per_element();
  for (int d = 0; d < n; ++d) {
    const auto [stride, length] = dims[d];
    if (stride < reach) return false;
    reach += stride * (length - 1);
  }
  return true;
}

}  // namespace

static_assert(sizeof(py::ssize_t) == sizeof(std::int64_t), "NumPy's shapes are read as 64-bit numbers");

View::View(py::detail::PyArray_Proxy* array, ElementType type)
    : data_(reinterpret_cast<std::byte*>(array->data)),
      shape_(reinterpret_cast<const std::int64_t*>(array->dimensions)),
      strides_(reinterpret_cast<const std::int64_t*>(array->strides)),
      ndim_(array->nd),
      type_(type),
      is_array_(true),
      is_writeable_((array->flags & flag_writeable) != 0),
      is_aligned_((array->flags & flag_aligned) != 0),
      is_contiguous_((array->flags & (flag_c_contiguous | flag_f_contiguous)) != 0),
      is_c_contiguous_((array->flags & flag_c_contiguous) != 0) {}

View::View(const ForeignArray& array, ElementType type)
    : data_(data_of(array.tensor)),
      shape_(array.tensor.shape),
      strides_(array.tensor.strides),
      stride_unit_(type.size() * (type.is_complex ? 2 : 1)),
      ndim_(array.tensor.ndim),
      type_(type),
      is_array_(true),
      is_writeable_(!array.is_read_only),
      is_aligned_(reinterpret_cast<std::uintptr_t>(data_) % static_cast<std::uintptr_t>(type.size()) == 0),
      is_contiguous_(is_canonical(array.tensor)),
      is_c_contiguous_(is_contiguous_) {}

// An array without strides has those of C order. The stride of a dimension of length 1 is never used, and may be any
// number.
std::int64_t View::stride(int d) const {
  if (shape_[d] == 1) return 0;
  if (strides_ != nullptr) return strides_[d] * stride_unit_;
  std::int64_t stride = stride_unit_;
  for (int inner = ndim_ - 1; inner > d; --inner) stride *= shape_[inner];
  return stride;
}

bool View::same_shape(const View& other) const {
  return ndim() == other.ndim() && std::equal(shape_, shape_ + ndim(), other.shape_);
}

std::int64_t View::size() const {
  std::int64_t elements = type_.is_complex ? 2 : 1;
  for (int d = 0; d < ndim(); ++d) elements *= shape(d);
  return elements;
}

void import_numpy() {
  const auto numpy = py::module_::import("numpy");
  array_type = reinterpret_cast<PyTypeObject*>(numpy.attr("ndarray").ptr());
  scalar_type = reinterpret_cast<PyTypeObject*>(numpy.attr("generic").ptr());
  for (std::size_t i = 0; i < type_names.size(); ++i) {
    descriptors[i] = numpy.attr("dtype")(type_names[i]).release().ptr();
  }
  int64_descriptor = numpy.attr("dtype")("int64").release().ptr();
}

bool is_numpy_scalar(PyObject* object) { return PyObject_TypeCheck(object, scalar_type); }

bool is_viewable(PyObject* object) { return has_exchange_api(Py_TYPE(object)) || is_array(object); }

std::optional<Problem> look(PyObject* object, View& view, Operand operand) {
  if (!is_exact_array(object)) {
    if (has_exchange_api(Py_TYPE(object)) || is_capsule(object)) return look_at_foreign(object, view, operand);
    if (has_own_dispatch(Py_TYPE(object))) {
      return unusable(
          "a tensor that is memory, and not one with a __torch_dispatch__ of its own (a DTensor has .to_local(), which "
          "shares its memory)");
    }
    if (!is_array(object)) {
      return type_problem("got " + type_name(object) + ", wanted a numpy.ndarray, which can be used without a copy");
    }
    if (is_masked(object)) {
      return type_problem(
          "got a masked array, wanted a plain one: a step has no notion of masked elements (use .data or .filled())");
    }
  }
  auto* array = py::detail::array_proxy(object);
  const auto type = element_type_of(array->descr);
  if (!type || !is_accepted(*type, operand)) {
    return type_problem(std::string("got dtype {dtype}, wanted ") + accepted_types + " in native byte order");
  }
  view = View(array, *type);
  return std::nullopt;
}

std::optional<Problem> problem_with_writing(const View& view) {
  if (!view.is_writeable()) {
    return value_problem("got a read-only array, wanted one that can be updated in place");
  }
  if (!view.is_contiguous() && !elements_are_apart(view)) {
    return value_problem(
        "got an array whose elements share memory (strides of a broadcast or sliding-window view), "
        "wanted one that can be updated in place");
  }
  return std::nullopt;
}

namespace {

ElementType state_type(ElementType param, Operand operand, const StorageTypes& types) {
  if (operand >= elementwise_count) return {param.dtype, Packing::unsigned8, false};
  const Packing packing = state_packing(types.state_dtype, operand);
  if (packing == Packing::lower_half) return {param.dtype, packing, false};
  if (packing == Packing::none) return {param.dtype, Packing::none, param.is_complex};
  return {param.dtype, has_scales(packing) ? Packing::unsigned8 : Packing::bfloat16, false};
}

// A gradient has any type that is computed as its parameter is.
bool fits(ElementType param, ElementType type, Operand operand, const StorageTypes& types) {
  if (operand == grad) return type.dtype == param.dtype && type.is_complex == param.is_complex;
  return type == state_type(param, operand, types);
}

const char* name_of(StateDType state_dtype) {
  if (state_dtype == StateDType::computed) return "None";
  return state_dtype == StateDType::bfloat16 ? "'bfloat16'" : "'8bit'";
}

// Scales are a row of their own, one for each block.
std::optional<Problem> problem_with_scales(const View& param, const View& view) {
  const std::int64_t wanted = blocks_of(param.size());
  if (view.ndim() != 1 || view.shape(0) != wanted) {
    return value_problem("shape " + shape_text(view) + ", wanted (" + std::to_string(wanted) +
                         ",): a byte for each 256 elements of {param}");
  }
  if (!view.is_c_contiguous()) return value_problem("got a strided array, wanted a contiguous one");
  return std::nullopt;
}

}  // namespace

std::optional<Problem> problem_with_storage_of(const View& param, const StorageTypes& types) {
  const ElementType type = param.type();
  const bool is_float32 = type.dtype == DType::float32 && !type.is_complex;
  if (types.state_dtype != StateDType::computed && !is_float32) {
    return value_problem("got " + type_text(type) + " with state_dtype " + name_of(types.state_dtype) +
                         ", wanted float32, bfloat16 or float16; with state_dtype None, which a group of its own can "
                         "have, its state is of its own type");
  }
  if (types.is_split && type != bfloat16_type) {
    return value_problem("got " + type_text(type) +
                         " with master_weights 'split', wanted bfloat16; a group of its own can have master_weights "
                         "None");
  }
  if (types.is_stochastic && type.packing == Packing::float16) {
    return value_problem(
        "got float16 with stochastic_rounding True, wanted bfloat16; a group of its own can have stochastic_rounding "
        "False");
  }
  return std::nullopt;
}

Packing param_packing(const View& param, const StorageTypes& types) {
  const Packing packing = param.type().packing;
  if (packing != Packing::bfloat16) return packing;
  if (types.is_split) return Packing::split;
  return types.is_stochastic ? Packing::stochastic_bfloat16 : packing;
}

std::optional<Problem> problem_beside(const View& param, const View& view, Operand operand, const StorageTypes& types) {
  const ElementType of_param = param.type();
  if (!fits(of_param, view.type(), operand, types)) {
    std::string what = "dtype " + type_text(view.type()) + " does not match {param} " + type_text(of_param);
    if (operand == grad) return type_problem(std::move(what));
    const ElementType wanted = state_type(of_param, operand, types);
    if (wanted != of_param) what += ", whose state is " + type_text(wanted);
    if (types.state_dtype != StateDType::computed || !is_number(view.type())) {
      what += std::string(" with state_dtype ") + name_of(types.state_dtype) +
              " (a new optimizer makes such state, or takes it from a state dict)";
    }
    return type_problem(std::move(what));
  }
  if (operand >= elementwise_count) return problem_with_scales(param, view);
  if (!view.same_shape(param)) {
    return value_problem("shape " + shape_text(view) + " does not match {param} " + shape_text(param));
  }
  return std::nullopt;
}

namespace {

void set_type(Tensor& tensor, ElementType type) {
  tensor.dtype = type.dtype;
  tensor.packing = {type.packing, type.packing};
  tensor.size = type.is_complex ? 2 : 1;
}

// As View::same_shape, with a loop, for arrays of few dimensions.
bool same_shape(const py::detail::PyArray_Proxy* a, const py::detail::PyArray_Proxy* b) {
  if (a->nd != b->nd) return false;
  for (int d = 0; d < a->nd; ++d) {
    if (a->dimensions[d] != b->dimensions[d]) return false;
  }
  return true;
}

bool describe_ordinary_numpy(std::span<PyObject* const, array_count> objects, Tensor& tensor) {
  const auto* first = py::detail::array_proxy(objects[param]);
  const auto is_ordinary = [&](int operand, int flags) {
    if (!is_exact_array(objects[operand])) return false;
    const auto* array = py::detail::array_proxy(objects[operand]);
    tensor.data[operand] = reinterpret_cast<std::byte*>(array->data);
    return (array->flags & flags) == flags && array->descr == first->descr && same_shape(array, first);
  };
  constexpr int read = flag_c_contiguous | flag_aligned;
  constexpr int written = read | flag_writeable;
  if ((first->flags & written) != written) return false;
  tensor.data[param] = reinterpret_cast<std::byte*>(first->data);
  if (objects[grad] != nullptr && !is_ordinary(grad, read)) return false;
  for (int operand = square_avg; operand < operand_count; ++operand) {
    if (objects[operand] != nullptr && !is_ordinary(operand, written)) return false;
  }
  // Where state has the type of the parameter.
  const auto last = descriptors.begin() + 4;
  const auto descriptor = std::find(descriptors.begin(), last, first->descr);
  if (descriptor == last) return false;
  set_type(tensor, element_types[static_cast<std::size_t>(descriptor - descriptors.begin())]);
  for (int d = 0; d < first->nd; ++d) tensor.size *= first->dimensions[d];
  return true;
}

bool describe_ordinary_foreign(std::span<PyObject* const, array_count> objects, Tensor& tensor) {
  ForeignArray first;
  if (!look_through_api(objects[param], first)) return false;
  const dlpack::Tensor& like = first.tensor;
  const auto type = element_type_of(like.dtype);
  if (!type || type->is_complex || !is_number(*type) || !is_in_cpu_memory(like) || !is_canonical(like)) return false;
  std::int64_t size = 1;
  for (int d = 0; d < like.ndim; ++d) size *= like.shape[d];
  const auto has_memory = [&](int operand, const dlpack::Tensor& array, std::int64_t item) {
    tensor.data[operand] = data_of(array);
    const auto address = reinterpret_cast<std::uintptr_t>(tensor.data[operand]);
    return address != 0 && address % static_cast<std::uintptr_t>(item) == 0;
  };
  if (!has_memory(param, like, type->size())) return false;
  set_type(tensor, *type);
  tensor.size = size;
  for (int operand = grad; operand < operand_count; ++operand) {
    if (objects[operand] == nullptr) continue;
    ForeignArray array;
    if (!look_through_api(objects[operand], array)) return false;
    const dlpack::Tensor& own = array.tensor;
    const auto own_type = element_type_of(own.dtype);
    if (!own_type || !fits(*type, *own_type, static_cast<Operand>(operand), {})) return false;
    if (own.ndim != like.ndim || !is_in_cpu_memory(own) || !is_canonical(own)) return false;
    for (int d = 0; d < like.ndim; ++d) {
      if (like.shape[d] != own.shape[d]) return false;
    }
    if (!has_memory(operand, own, own_type->size())) return false;
    if (operand == grad) tensor.packing[grad] = own_type->packing;
  }
  return true;
}

}  // namespace

bool describe_ordinary(std::span<PyObject* const, array_count> objects, Tensor& tensor) {
  return is_exact_array(objects[param]) ? describe_ordinary_numpy(objects, tensor)
                                        : describe_ordinary_foreign(objects, tensor);
}

void describe(const View& view, Layout& layout, int operand) {
  auto& strides = layout.strides[operand];
  for (int d = 0; d < view.ndim(); ++d) {
    layout.shape[d] = view.shape(d);
    strides[d] = view.stride(d);
  }
  layout.ndim = view.ndim();
  if (view.type().is_complex) {
    layout.shape[layout.ndim] = 2;
    strides[layout.ndim++] = view.type().size();
  }
}

std::int64_t* counts_of(PyObject* object, std::size_t count) {
  // An unpickled array has its own dtype object, equal to NumPy's.
  const bool is_int64 =
      is_array(object) && (py::detail::array_proxy(object)->descr == int64_descriptor ||
                           py::handle(py::detail::array_proxy(object)->descr).equal(py::handle(int64_descriptor)));
  if (!is_int64) return nullptr;
  const View view(py::detail::array_proxy(object), {DType::float64});  // as wide as an int64
  const bool fits = view.ndim() == 1 && view.shape(0) == static_cast<std::int64_t>(count) && view.is_c_contiguous() &&
                    view.is_aligned() && view.is_writeable();
  return fits ? reinterpret_cast<std::int64_t*>(view.data()) : nullptr;
}

}  // namespace rmsprop::bindings
