#include "views.hpp"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

namespace rmsprop::bindings {
namespace {

// Flags of NumPy's C API, part of its stable ABI.
constexpr int flag_c_contiguous = 0x1;
constexpr int flag_f_contiguous = 0x2;
constexpr int flag_aligned = 0x100;
constexpr int flag_writeable = 0x400;

struct ElementType {
  DType dtype;
  bool is_complex;
};
constexpr std::array<const char*, 4> type_names = {"float32", "float64", "complex64", "complex128"};
constexpr std::array<ElementType, 4> element_types = {
    {{DType::float32, false}, {DType::float64, false}, {DType::float32, true}, {DType::float64, true}}};

// What NumPy keeps for the life of the process.
struct NumPy {
  PyTypeObject* array_type;
  std::array<PyObject*, 4> descriptors;  // one per element type, in the machine's byte order
  PyObject* int64;

  static const NumPy& get() {
    PYBIND11_CONSTINIT static py::gil_safe_call_once_and_store<NumPy> storage;
    return storage
        .call_once_and_store_result([] {
          const auto module = py::module_::import("numpy");
          NumPy numpy{};
          numpy.array_type = reinterpret_cast<PyTypeObject*>(module.attr("ndarray").ptr());
          for (std::size_t i = 0; i < type_names.size(); ++i) {
            numpy.descriptors[i] = module.attr("dtype")(type_names[i]).release().ptr();
          }
          numpy.int64 = module.attr("dtype")("int64").release().ptr();
          return numpy;
        })
        .get_stored();
  }
};

// Asks without running Python code: nobody can have made a masked array without importing numpy.ma.
bool is_masked(PyObject* array) {
  PyObject* module = PyDict_GetItemString(PyImport_GetModuleDict(), "numpy.ma");
  if (module == nullptr || !PyModule_Check(module)) return false;
  PyObject* type = PyDict_GetItemString(PyModule_GetDict(module), "MaskedArray");
  return type != nullptr && PyType_Check(type) && PyObject_TypeCheck(array, reinterpret_cast<PyTypeObject*>(type));
}

void check_is_array(PyObject* object, const Label& label) {
  if (!is_array(object)) {
    raise_type_error(label, "got " + type_name(object) + ", wanted a numpy.ndarray, which can be used without a copy");
  }
  if (is_masked(object)) {
    raise_type_error(label,
                     "got a masked array, wanted a plain one: a step has no notion of masked elements "
                     "(use .data or .filled())");
  }
}

ElementType element_type_of(PyObject* descriptor, const Label& label) {
  const NumPy& numpy = NumPy::get();
  for (std::size_t i = 0; i < type_names.size(); ++i) {
    if (descriptor == numpy.descriptors[i]) return element_types[i];
  }
  // A dtype can equal one of ours without being the same object, such as one with metadata.
  for (std::size_t i = 0; i < type_names.size(); ++i) {
    if (py::handle(descriptor).equal(py::handle(numpy.descriptors[i]))) return element_types[i];
  }
  raise_type_error(label, "got dtype " + py::str(py::handle(descriptor)).cast<std::string>() +
                              ", wanted float32, float64, complex64 or complex128 in native byte order");
}

std::string shape_text(const View& view) {
  py::tuple shape(view.ndim());
  for (int d = 0; d < view.ndim(); ++d) shape[static_cast<std::size_t>(d)] = view.shape(d);
  return py::str(shape).cast<std::string>();
}

std::string type_text(const View& view) {
  return type_names[(view.is_complex() ? 2 : 0) + (view.dtype() == DType::float64 ? 1 : 0)];
}

// True if every step in a dimension jumps over all that the smaller dimensions reach: then no two elements share
// memory. Arrays that fail this without overlapping can only be made by hand, from strides; they are refused too.
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

// The greatest common divisor of all strides: the elements of the view lie on a lattice of this spacing.
std::int64_t spacing(const View& view) {
  std::int64_t result = 0;
  for (int d = 0; d < view.ndim(); ++d) {
    if (view.shape(d) > 1) result = std::gcd(result, view.stride(d));
  }
  return result;
}

py::array plain_array(const View& view) {
  const std::string type = type_text(view);
  std::vector<py::ssize_t> shape;
  std::vector<py::ssize_t> strides;
  for (int d = 0; d < view.ndim(); ++d) {
    shape.push_back(view.shape(d));
    strides.push_back(view.stride(d));
  }
  // A capsule as the owner keeps NumPy from copying; the view's own array outlives this one.
  return py::array(py::dtype(type), shape, strides, view.data(), py::capsule(view.data(), [](void*) {}));
}

}  // namespace

bool View::is_writeable() const { return (array_->flags & flag_writeable) != 0; }

bool View::is_aligned() const { return (array_->flags & flag_aligned) != 0; }

bool View::is_contiguous() const { return (array_->flags & (flag_c_contiguous | flag_f_contiguous)) != 0; }

bool View::is_c_contiguous() const { return (array_->flags & flag_c_contiguous) != 0; }

bool View::same_shape(const View& other) const {
  return ndim() == other.ndim() &&
         std::equal(array_->dimensions, array_->dimensions + ndim(), other.array_->dimensions);
}

std::int64_t View::size() const {
  std::int64_t elements = is_complex_ ? 2 : 1;
  for (int d = 0; d < ndim(); ++d) elements *= shape(d);
  return elements;
}

bool is_array(PyObject* object) { return PyObject_TypeCheck(object, NumPy::get().array_type); }

Extent extent_of(const View& view) {
  if (view.is_contiguous()) return {view.data(), view.data() + view.size() * item_size(view.dtype())};
  std::int64_t lowest = 0;
  std::int64_t highest = view.bytes_per_element();
  for (int d = 0; d < view.ndim(); ++d) {
    if (view.shape(d) == 0) return {view.data(), view.data()};
    const std::int64_t reach = view.stride(d) * (view.shape(d) - 1);
    (reach < 0 ? lowest : highest) += reach;
  }
  return {view.data() + lowest, view.data() + highest};
}

View view_of(PyObject* object, const Label& label) {
  if (Py_TYPE(object) != NumPy::get().array_type) check_is_array(object, label);
  const ElementType type = element_type_of(py::detail::array_proxy(object)->descr, label);
  return View(object, type.dtype, type.is_complex);
}

void check_writeable(const View& view, const Label& label) {
  if (!view.is_writeable()) raise_value_error(label, "got a read-only array, wanted one that can be updated in place");
  if (!view.is_contiguous() && !elements_are_apart(view)) {
    raise_value_error(label,
                      "got an array whose elements share memory (strides of a broadcast or sliding-window view), "
                      "wanted one that can be updated in place");
  }
}

void check_matches(const View& view, const Label& label, const View& param, const Label& param_label) {
  if (!view.same_type(param)) {
    raise_type_error(label,
                     "dtype " + type_text(view) + " does not match " + param_label.text() + " " + type_text(param));
  }
  if (!view.same_shape(param)) {
    raise_value_error(label,
                      "shape " + shape_text(view) + " does not match " + param_label.text() + " " + shape_text(param));
  }
}

bool describe_ordinary(std::span<PyObject* const, operand_count> objects, Tensor& tensor) {
  const NumPy& numpy = NumPy::get();
  if (Py_TYPE(objects[param]) != numpy.array_type) return false;
  const auto* first = py::detail::array_proxy(objects[param]);
  const auto descriptor = std::find(numpy.descriptors.begin(), numpy.descriptors.end(), first->descr);
  if (descriptor == numpy.descriptors.end()) return false;
  for (int operand = 0; operand < operand_count; ++operand) {
    if (objects[operand] == nullptr) continue;
    if (Py_TYPE(objects[operand]) != numpy.array_type) return false;
    const auto* array = py::detail::array_proxy(objects[operand]);
    const int wanted = flag_c_contiguous | flag_aligned | (operand == grad ? 0 : flag_writeable);
    if ((array->flags & wanted) != wanted || array->descr != first->descr || array->nd != first->nd) return false;
    for (int d = 0; d < first->nd; ++d) {
      if (array->dimensions[d] != first->dimensions[d]) return false;
    }
    tensor.data[operand] = reinterpret_cast<std::byte*>(array->data);
  }
  const ElementType type = element_types[static_cast<std::size_t>(descriptor - numpy.descriptors.begin())];
  tensor.dtype = type.dtype;
  tensor.size = type.is_complex ? 2 : 1;
  for (int d = 0; d < first->nd; ++d) tensor.size *= first->dimensions[d];
  return true;
}

void describe(const View& view, Layout& layout, int operand) {
  auto& strides = layout.strides[operand];
  for (int d = 0; d < view.ndim(); ++d) {
    layout.shape[d] = view.shape(d);
    strides[d] = view.stride(d);
  }
  layout.ndim = view.ndim();
  if (view.is_complex()) {
    layout.shape[layout.ndim] = 2;
    strides[layout.ndim++] = item_size(view.dtype());
  }
}

std::int64_t* counts_of(PyObject* object, std::size_t count, const Label& label) {
  const NumPy& numpy = NumPy::get();
  // An unpickled array has a dtype object of its own, equal to the one that is known here.
  const bool is_int64 = PyObject_TypeCheck(object, numpy.array_type) &&
                        (py::detail::array_proxy(object)->descr == numpy.int64 ||
                         py::handle(py::detail::array_proxy(object)->descr).equal(py::handle(numpy.int64)));
  if (!is_int64) {
    raise_type_error(label, "got " + type_name(object) + ", wanted an int64 array");
  }
  const View view(object, DType::float64, false);  // as wide as an int64
  const bool fits = view.ndim() == 1 && view.shape(0) == static_cast<std::int64_t>(count) && view.is_c_contiguous() &&
                    view.is_aligned() && view.is_writeable();
  if (!fits) raise_value_error(label, "wanted a dense, writeable array with one entry for each parameter");
  return reinterpret_cast<std::int64_t*>(view.data());
}

bool shares_memory(const View& a, const View& b) {
  // Columns of one matrix, and the like: both on lattices that never meet.
  const std::int64_t step = std::gcd(spacing(a), spacing(b));
  if (step > 0) {
    const std::int64_t offset = ((b.data() - a.data()) % step + step) % step;
    if (offset >= a.bytes_per_element() && offset + b.bytes_per_element() <= step) return false;
  }
  // The general question is a bounded integer programme; NumPy solves it, and gives up on what no real array poses.
  const auto numpy = py::module_::import("numpy");
  constexpr std::int64_t max_work = 1'000'000;
  try {
    return numpy.attr("shares_memory")(plain_array(a), plain_array(b), max_work).cast<bool>();
  } catch (py::error_already_set& error) {
    if (!error.matches(numpy.attr("exceptions").attr("TooHardError"))) throw;
    return true;
  }
}

}  // namespace rmsprop::bindings
