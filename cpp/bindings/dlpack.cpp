#include "dlpack.hpp"

#include <vector>

namespace rmsprop::bindings {
namespace {

struct Version {
  std::uint32_t major;
  std::uint32_t minor;
};
constexpr std::uint32_t known_major = 1;

struct ExchangeApi {
  Version version;
  ExchangeApi* previous;  // of a lower major version
  void* allocate;
  void* from_object;
  void* to_object;
  int (*look_at)(void* object, dlpack::Tensor* out);  // may be null
  void* current_stream;
};

struct ManagedTensor {
  dlpack::Tensor tensor;
  void* context;
  void (*deleter)(ManagedTensor*);
};

struct VersionedTensor {
  Version version;
  void* context;
  void (*deleter)(VersionedTensor*);
  std::uint64_t flags;
  dlpack::Tensor tensor;
};
constexpr std::uint64_t flag_read_only = 1;
constexpr std::uint64_t flag_copied = 2;

constexpr const char* capsule_name = "dltensor";
constexpr const char* versioned_capsule_name = "dltensor_versioned";

// The exchange API of a type, or null. By the protocol it lasts for as long as the process.
const ExchangeApi* find_api(PyTypeObject* type) {
  const auto capsule = py::reinterpret_steal<py::object>(
      PyObject_GetAttrString(reinterpret_cast<PyObject*>(type), "__dlpack_c_exchange_api__"));
  constexpr const char* name = "dlpack_exchange_api";
  if (!capsule || PyCapsule_IsValid(capsule.ptr(), name) == 0) {
    PyErr_Clear();
    return nullptr;
  }
  const auto* api = static_cast<const ExchangeApi*>(PyCapsule_GetPointer(capsule.ptr(), name));
  while (api != nullptr && api->version.major > known_major) api = api->previous;
  return api != nullptr && api->version.major == known_major && api->look_at != nullptr ? api : nullptr;
}

struct KnownType {
  PyTypeObject* type;  // owned, so that no other type takes its address
  const ExchangeApi* api;
};

// A program has few types of arrays. Those it makes without end are looked up each time.
constexpr std::size_t most_known_types = 16;

const ExchangeApi* api_of(PyTypeObject* type) {
  static std::vector<KnownType>& known = *new std::vector<KnownType>();  // outlives the interpreter
  for (const KnownType& entry : known) {
    if (entry.type == type) return entry.api;
  }
  const ExchangeApi* api = find_api(type);
  if (known.size() < most_known_types) {
    Py_INCREF(type);
    known.push_back({type, api});
  }
  return api;
}

}  // namespace

bool has_exchange_api(PyTypeObject* type) { return api_of(type) != nullptr; }

bool is_capsule(PyObject* object) { return PyCapsule_CheckExact(object) != 0; }

bool look_at(PyObject* array, ForeignArray& result) {
  if (const ExchangeApi* api = api_of(Py_TYPE(array))) {
    result.is_read_only = false;
    if (api->look_at(array, &result.tensor) == 0) return true;
    PyErr_Clear();
    return false;
  }
  if (PyCapsule_IsValid(array, versioned_capsule_name) != 0) {
    const auto* managed = static_cast<VersionedTensor*>(PyCapsule_GetPointer(array, versioned_capsule_name));
    if (managed->version.major != known_major) return false;
    result.tensor = managed->tensor;
    result.is_read_only = (managed->flags & flag_read_only) != 0;
    return (managed->flags & flag_copied) == 0;
  }
  if (PyCapsule_IsValid(array, capsule_name) != 0) {
    result.tensor = static_cast<ManagedTensor*>(PyCapsule_GetPointer(array, capsule_name))->tensor;
    result.is_read_only = false;
    return true;
  }
  return false;
}

py::object exported(PyObject* array) {
  const auto object = py::reinterpret_borrow<py::object>(array);
  if (PyType_Check(array) || !py::hasattr(object, "__dlpack__")) return {};
  try {
    // PyTorch refuses to export what needs a gradient, but its detached twin is the same memory.
    const py::object plain = py::hasattr(object, "detach") ? object.attr("detach")() : object;
    const py::object method = plain.attr("__dlpack__");
    try {
      return method(py::arg("max_version") = py::make_tuple(known_major, 0));
    } catch (const py::error_already_set& error) {
      if (!error.matches(PyExc_TypeError)) throw;
      return method();  // a library of before DLPack 1.0
    }
  } catch (const py::error_already_set& error) {
    if (!error.matches(PyExc_Exception)) throw;  // an interrupt, and the like
    return {};
  }
}

}  // namespace rmsprop::bindings
