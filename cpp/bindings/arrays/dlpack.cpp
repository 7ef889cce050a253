#include "dlpack.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>

#include "../python.hpp"

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

// A kind of capsule: its name when it is offered, its name after a consumer has taken the array, and the name of our
// own capsule for that array.
template <class Managed>
struct CapsuleNames;
template <>
struct CapsuleNames<ManagedTensor> {
  static constexpr const char* offered = "dltensor";
  static constexpr const char* taken = "used_dltensor";
  static constexpr const char* own = "rmsprop_dltensor";
};
template <>
struct CapsuleNames<VersionedTensor> {
  static constexpr const char* offered = "dltensor_versioned";
  static constexpr const char* taken = "used_dltensor_versioned";
  static constexpr const char* own = "rmsprop_dltensor_versioned";
};

// Null, with no Python error set, if the object is no capsule of that name.
template <class Managed>
Managed* managed_in(PyObject* object, const char* name) {
  return PyCapsule_IsValid(object, name) != 0 ? static_cast<Managed*>(PyCapsule_GetPointer(object, name)) : nullptr;
}

template <class Managed>
void release(PyObject* own_capsule) {
  const py::error_scope keep;  // a deleter may be Python code
  auto* managed = managed_in<Managed>(own_capsule, CapsuleNames<Managed>::own);
  if (managed != nullptr && managed->deleter != nullptr) managed->deleter(managed);
}

// Takes the array of a capsule, as the protocol requires of a consumer, so that other owners of the capsule cannot free
// the memory. Null if it is no such capsule, or has been taken already.
template <class Managed>
py::object taken_over(const py::object& capsule) {
  using Names = CapsuleNames<Managed>;
  auto* managed = managed_in<Managed>(capsule.ptr(), Names::offered);
  if (managed == nullptr) return {};
  auto own = py::reinterpret_steal<py::object>(PyCapsule_New(managed, Names::own, nullptr));
  if (!own || PyCapsule_SetName(capsule.ptr(), Names::taken) != 0 ||
      PyCapsule_SetDestructor(own.ptr(), release<Managed>) != 0) {
    throw py::error_already_set();
  }
  return own;
}

// Whether everything that is computed from a shape and from strides fits into 64 bits, and into `Layout`.
bool is_sound(const dlpack::Tensor& tensor) {
  constexpr std::int64_t most = std::numeric_limits<std::int64_t>::max() / 64;  // elements, of at most 16 bytes
  if (tensor.ndim < 0 || tensor.ndim > 64 || (tensor.ndim > 0 && tensor.shape == nullptr)) return false;
  if (tensor.byte_offset > UINTPTR_MAX - reinterpret_cast<std::uintptr_t>(tensor.data)) return false;
  std::int64_t size = 1;
  bool is_empty = false;
  for (int d = 0; d < tensor.ndim; ++d) {
    const std::int64_t length = tensor.shape[d];
    if (length < 0 || length > most / size) return false;
    if (length == 0) is_empty = true;
    size *= std::max<std::int64_t>(length, 1);
  }
  if (is_empty || tensor.strides == nullptr) return true;  // strides are not used then
  std::int64_t reach = 0;
  for (int d = 0; d < tensor.ndim; ++d) {
    const std::int64_t stride = tensor.strides[d];
    const std::int64_t steps = tensor.shape[d] - 1;
    if (steps == 0) continue;
    if (stride < -most || stride > most || std::abs(stride) > (most - reach) / steps) return false;
    reach += std::abs(stride) * steps;
  }
  return true;
}

// An attribute of a class, found without running Python code: neither metaclasses nor descriptors are asked, and no key
// is compared that is not a plain str. Borrowed.
PyObject* class_attribute(PyTypeObject* type, const char* name) {
  const auto length = static_cast<Py_ssize_t>(std::strlen(name));
  PyObject* classes = type->tp_mro;
  for (Py_ssize_t i = 0; classes != nullptr && i < PyTuple_GET_SIZE(classes); ++i) {
    auto* owner = reinterpret_cast<PyTypeObject*>(PyTuple_GET_ITEM(classes, i));
#if PY_VERSION_HEX >= 0x030C0000
    const auto dict = py::reinterpret_steal<py::object>(PyType_GetDict(owner));
#else
    const py::object dict = owned(owner->tp_dict);
#endif
    if (!dict) continue;
    const Locked lock(dict.ptr());
    Py_ssize_t position = 0;
    PyObject* key = nullptr;
    PyObject* value = nullptr;
    while (PyDict_Next(dict.ptr(), &position, &key, &value) != 0) {
      const bool may_be = PyUnicode_CheckExact(key) && PyUnicode_GET_LENGTH(key) == length;
      if (may_be && PyUnicode_CompareWithASCIIString(key, name) == 0) return value;
    }
  }
  return nullptr;
}

// Whether objects of a type are PyTorch's tensors. The class that all of them have is one of C, of which no class of
// Python can be a direct subclass, so that a class which merely says so is none.
bool is_of_tensors(PyTypeObject* type) {
  for (const PyTypeObject* base = type; base != nullptr; base = base->tp_base) {
    const bool is_of_c = (base->tp_flags & Py_TPFLAGS_HEAPTYPE) == 0;
    if (is_of_c && std::strcmp(base->tp_name, "torch._C.TensorBase") == 0) return true;
  }
  return false;
}

// The exchange API of a type, or null. According to the protocol it is valid until the process ends.
const ExchangeApi* find_api(PyTypeObject* type) {
  if (!is_of_tensors(type) || has_own_dispatch(type)) return nullptr;
  PyObject* capsule = class_attribute(type, "__dlpack_c_exchange_api__");
  constexpr const char* name = "dlpack_exchange_api";
  if (capsule == nullptr || PyCapsule_IsValid(capsule, name) == 0) return nullptr;
  const auto* api = static_cast<const ExchangeApi*>(PyCapsule_GetPointer(capsule, name));
  while (api != nullptr && api->version.major > known_major) api = api->previous;
  return api != nullptr && api->version.major == known_major && api->look_at != nullptr ? api : nullptr;
}

struct KnownType {
  std::atomic<PyTypeObject*> type = nullptr;  // owned, so that no other type takes its address
  std::atomic<const ExchangeApi*> api = nullptr;
  std::atomic<unsigned> version = 0;  // of the type, which changes with its attributes
};

// A program has few types of arrays; if it has more, the later ones are looked up each time. Entries are only added,
// and each is complete before its type is published, so that reading takes no lock.
constexpr std::size_t most_known_types = 16;

const ExchangeApi* api_of(PyTypeObject* type) {
  static std::array<KnownType, most_known_types> known;
  static std::atomic<std::size_t> used = 0;
  for (KnownType& entry : known) {
    PyTypeObject* known_type = entry.type.load(std::memory_order_acquire);
    if (known_type == nullptr) break;
    if (known_type != type) continue;
    if (entry.version != type->tp_version_tag || type->tp_version_tag == 0) {
      entry.api = find_api(type);
      entry.version = type->tp_version_tag;
    }
    return entry.api;
  }
  const ExchangeApi* api = find_api(type);
  const std::size_t place = used.load() < most_known_types ? used.fetch_add(1) : most_known_types;
  if (place < most_known_types) {
    Py_INCREF(type);
    known[place].api = api;
    known[place].version = type->tp_version_tag;
    known[place].type.store(type, std::memory_order_release);
  }
  return api;
}

}  // namespace

// All other tensors of PyTorch have the same one, which does nothing.
bool has_own_dispatch(PyTypeObject* type) {
  PyObject* dispatch = class_attribute(type, "__torch_dispatch__");
  if (dispatch == nullptr) return false;
  const bool is_of_c = PyCFunction_CheckExact(dispatch) != 0;
  const char* name = is_of_c ? reinterpret_cast<PyCFunctionObject*>(dispatch)->m_ml->ml_name : "";
  return std::strcmp(name, "_disabled_torch_dispatch_impl") != 0;
}

bool has_exchange_api(PyTypeObject* type) { return api_of(type) != nullptr; }

bool is_capsule(PyObject* object) {
  return PyCapsule_IsValid(object, CapsuleNames<VersionedTensor>::own) != 0 ||
         PyCapsule_IsValid(object, CapsuleNames<ManagedTensor>::own) != 0;
}

bool look_through_api(PyObject* array, ForeignArray& result) {
  const ExchangeApi* api = api_of(Py_TYPE(array));
  if (api == nullptr) return false;
  result.is_read_only = false;
  if (api->look_at(array, &result.tensor) == 0) return true;
  PyErr_Clear();
  return false;
}

bool look_at(PyObject* array, ForeignArray& result) {
  if (look_through_api(array, result)) return true;
  if (const auto* versioned = managed_in<VersionedTensor>(array, CapsuleNames<VersionedTensor>::own)) {
    if (versioned->version.major != known_major || (versioned->flags & flag_copied) != 0) return false;
    result.tensor = versioned->tensor;
    result.is_read_only = (versioned->flags & flag_read_only) != 0;
    return is_sound(result.tensor);
  }
  if (const auto* managed = managed_in<ManagedTensor>(array, CapsuleNames<ManagedTensor>::own)) {
    result.tensor = managed->tensor;
    result.is_read_only = false;
    return is_sound(result.tensor);
  }
  return false;
}

namespace {

// What `__dlpack__` returns.
py::object asked(const py::object& array) {
  // PyTorch refuses to export what requires a gradient, but a detached tensor has the same memory.
  const py::object plain = py::hasattr(array, "detach") ? array.attr("detach")() : array;
  const py::object method = plain.attr("__dlpack__");
  try {
    return method(py::arg("max_version") = py::make_tuple(known_major, 0));
  } catch (const py::error_already_set& error) {
    if (!error.matches(PyExc_TypeError)) throw;
    return method();  // a library of before DLPack 1.0
  }
}

}  // namespace

py::object exported(PyObject* array) {
  const auto object = py::reinterpret_borrow<py::object>(array);
  if (PyType_Check(array) || has_own_dispatch(Py_TYPE(array)) || !py::hasattr(object, "__dlpack__")) return {};
  try {
    const py::object capsule = asked(object);
    if (py::object own = taken_over<VersionedTensor>(capsule)) return own;
    return taken_over<ManagedTensor>(capsule);
  } catch (const py::error_already_set& error) {
    if (!error.matches(PyExc_Exception)) throw;  // an interrupt, and the like
    return {};
  }
}

}  // namespace rmsprop::bindings
