#include "lazy.hpp"

#include <array>
#include <atomic>

#include "dlpack.hpp"

namespace rmsprop::bindings {
namespace {

// PyTorch's own types, and its methods as it made them: whatever replaces them later is not asked.
struct Torch {
  std::array<PyTypeObject*, 2> plain_types;
  PyObject* is_neg;
  PyObject* is_conj;
};

std::atomic<const Torch*> known = nullptr;

const Torch& torch() {
  if (const Torch* torch = known.load(std::memory_order_acquire)) return *torch;
  PYBIND11_CONSTINIT static py::gil_safe_call_once_and_store<Torch> storage;
  const Torch& torch =
      storage
          .call_once_and_store_result([] {
            const auto module = py::module_::import("torch");
            const py::object base = module.attr("Tensor").attr("__base__");
            const auto kept = [](py::object object) { return object.release().ptr(); };
            const auto type = [&](const py::object& object) { return reinterpret_cast<PyTypeObject*>(kept(object)); };
            return Torch{{type(module.attr("Tensor")), type(module.attr("nn").attr("Parameter"))},
                         kept(base.attr("is_neg")),
                         kept(base.attr("is_conj"))};
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

bool may_run_python_when_asked(PyObject* tensor) {
  const Torch* torch = known.load(std::memory_order_acquire);
  if (torch == nullptr) return true;
  return Py_TYPE(tensor) != torch->plain_types[0] && Py_TYPE(tensor) != torch->plain_types[1];
}

// The sign of a real tensor is lazy only as the imaginary part of a conjugated complex one.
bool is_lazy(PyObject* tensor) { return says(torch().is_neg, tensor) || says(torch().is_conj, tensor); }

Problem lazy_problem() {
  return {Problem::Error::value,
          "got a lazily conjugated or negated tensor, wanted one in memory as it is (.resolve_conj().resolve_neg())"};
}

}  // namespace rmsprop::bindings
