#include "lazy.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <utility>

#include "dlpack.hpp"

namespace rmsprop::bindings {
namespace {

// PyTorch's methods as it made them: whatever replaces them later is not asked.
struct Torch {
  PyObject* is_neg;
  PyObject* is_conj;
  PyObject* untyped_storage;
  PyObject* dtype;  // the property
  std::array<PyObject*, 3> complex_dtypes;
};

std::atomic<const Torch*> known = nullptr;

const Torch& torch() {
  if (const Torch* torch = known.load(std::memory_order_acquire)) return *torch;
  PYBIND11_CONSTINIT static py::gil_safe_call_once_and_store<Torch> storage;
  const Torch& torch = storage
                           .call_once_and_store_result([] {
                             const auto module = py::module_::import("torch");
                             const py::object base = module.attr("Tensor").attr("__base__");
                             const auto of = [](const py::object& owner, const char* name) {
                               return py::object(owner.attr(name)).release().ptr();
                             };
                             return Torch{of(base, "is_neg"),
                                          of(base, "is_conj"),
                                          of(base, "untyped_storage"),
                                          of(base, "dtype"),
                                          {of(module, "complex64"), of(module, "complex128"), of(module, "complex32")}};
                           })
                           .get_stored();
  known.store(&torch, std::memory_order_release);
  return torch;
}

bool says(PyObject* method, PyObject* tensor) {
  const auto answer = py::reinterpret_steal<py::object>(PyObject_CallOneArg(method, tensor));
  if (!answer) throw py::error_already_set();
  return answer.ptr() == Py_True;
}

}  // namespace

// A real tensor is never conjugated, and to read its type takes less than to ask.
bool is_lazy(PyObject* tensor) {
  const Torch& methods = torch();
  if (says(methods.is_neg, tensor)) return true;
  auto* type = reinterpret_cast<PyObject*>(Py_TYPE(tensor));
  const auto dtype =
      py::reinterpret_steal<py::object>(Py_TYPE(methods.dtype)->tp_descr_get(methods.dtype, tensor, type));
  if (!dtype) throw py::error_already_set();
  const auto& of_complex = methods.complex_dtypes;
  return std::find(of_complex.begin(), of_complex.end(), dtype.ptr()) != of_complex.end() &&
         says(methods.is_conj, tensor);
}

bool has_memory(PyObject* tensor, std::uintptr_t begin, std::uintptr_t end) {
  const auto storage = py::reinterpret_steal<py::object>(PyObject_CallOneArg(torch().untyped_storage, tensor));
  if (!storage) throw py::error_already_set();
  const auto first = storage.attr("data_ptr")().cast<std::uintptr_t>();
  const auto size = storage.attr("nbytes")().cast<std::uintptr_t>();
  return begin >= first && end <= first + size;
}

py::object resolved(py::object tensor) {
  if (tensor.is_none() || !has_exchange_api(Py_TYPE(tensor.ptr())) || !is_lazy(tensor.ptr())) return tensor;
  return tensor.attr("resolve_conj")().attr("resolve_neg")();
}

Problem lazy_problem() {
  return {Problem::Error::value,
          "got a lazily conjugated or negated tensor, wanted one in memory as it is (.resolve_conj().resolve_neg())"};
}

}  // namespace rmsprop::bindings
