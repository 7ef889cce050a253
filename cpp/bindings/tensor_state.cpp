#include "tensor_state.hpp"

#include <cmath>
#include <cstring>
#include <limits>
#include <optional>
#include <string>

#include "dlpack.hpp"
#include "errors.hpp"
#include "views.hpp"

namespace rmsprop::bindings {
namespace {

PyObject* interned(const char* name) { return PyUnicode_InternFromString(name); }

struct Names {
  PyObject* grad = interned("grad");
  PyObject* step = interned("step");
  std::array<PyObject*, state_count> of_rmsprop = {interned("square_avg"), interned("grad_avg"),
                                                   interned("momentum_buffer")};
  PyObject* sum = interned("sum");

  static const Names& get() {
    static const Names names;
    return names;
  }
};

py::object owned(PyObject* borrowed) { return py::reinterpret_borrow<py::object>(borrowed); }

// Borrowed, and null if there is no such key.
PyObject* find(PyObject* dict, PyObject* key) {
  PyObject* value = PyDict_GetItemWithError(dict, key);
  if (value == nullptr && PyErr_Occurred() != nullptr) throw py::error_already_set();
  return value;
}

// The only number of a tensor of float32, float64 or int64, or null.
struct Number {
  std::byte* data;
  dlpack::TypeCode code;
  int bits;
};

std::optional<Number> number_in(PyObject* tensor) {
  ForeignArray array;
  if (!look_at(tensor, array) || array.tensor.data == nullptr || array.tensor.device.type != dlpack::cpu) return {};
  for (int d = 0; d < array.tensor.ndim; ++d) {
    if (array.tensor.shape[d] != 1) return {};
  }
  const dlpack::DataType& type = array.tensor.dtype;
  const bool is_float = type.code == dlpack::real && (type.bits == 32 || type.bits == 64);
  const bool is_int = type.code == dlpack::signed_int && type.bits == 64;
  if ((!is_float && !is_int) || type.lanes != 1 || array.is_read_only) return {};
  return Number{static_cast<std::byte*>(array.tensor.data) + array.tensor.byte_offset,
                static_cast<dlpack::TypeCode>(type.code), type.bits};
}

template <class T>
T load(const std::byte* data) {
  T value;
  std::memcpy(&value, data, sizeof value);
  return value;
}

template <class T>
void store(std::byte* data, std::int64_t count) {
  const auto value = static_cast<T>(count);
  std::memcpy(data, &value, sizeof value);
}

std::int64_t count_in(const Number& number) {
  if (number.code == dlpack::signed_int) return load<std::int64_t>(number.data);
  const double value = number.bits == 32 ? load<float>(number.data) : load<double>(number.data);
  constexpr double too_many = 9223372036854775808.0;  // 2^63
  if (!(value >= 0.0 && value < too_many && value == std::floor(value))) {
    throw py::value_error("state: 'step' is " + repr(py::float_(value).ptr()) + ", wanted a whole number >= 0");
  }
  return static_cast<std::int64_t>(value);
}

// The state of optimizers grows in the order of their parameters. So the next entry is mostly the one, and its
// parameter need not be looked up, which would have PyTorch hash it.
py::object entry_of(PyObject* state, PyObject* param, Py_ssize_t& position) {
  PyObject* key = nullptr;
  PyObject* entry = nullptr;
  Py_ssize_t next = position;
  if (PyDict_Next(state, &next, &key, &entry) != 0 && key == param) {
    position = next;
  } else {
    entry = find(state, param);
  }
  if (entry != nullptr && !PyDict_Check(entry)) {
    raise_type_error({"state"}, "got " + type_name(entry) + ", wanted a dict for each parameter");
  }
  return owned(entry);
}

}  // namespace

PyObject* TensorState::hold(py::object object) {
  if (!object.is_none() && !is_viewable(object.ptr())) {
    if (py::object capsule = exported(object.ptr())) object = std::move(capsule);
  }
  return held_.emplace_back(std::move(object)).ptr();
}

void TensorState::clear() {
  held_.clear();
  originals_.clear();
  params_.clear();
  grads_.clear();
  counts_.clear();
  steps_.clear();
  for (auto& entries : entries_) entries.clear();
}

void TensorState::gather(const py::list& groups, const py::dict& state, const std::vector<unsigned>& needed) {
  clear();
  Py_ssize_t position = 0;
  for (std::size_t i = 0; i < needed.size() && i < groups.size(); ++i) {
    const py::object group = groups[i];
    static PyObject* const key = interned("params");
    const py::object params = owned(PyDict_Check(group.ptr()) ? find(group.ptr(), key) : nullptr);
    if (!params || !PyList_Check(params.ptr())) raise_value_error({"param_groups"}, "wanted a list as 'params'");
    // Its length is asked anew each time: what is asked of a tensor may run Python code.
    for (Py_ssize_t j = 0; j < PyList_GET_SIZE(params.ptr()); ++j) {
      const py::object param = owned(PyList_GET_ITEM(params.ptr(), j));
      add(param, entry_of(state.ptr(), param.ptr(), position), needed[i]);
    }
  }
}

void TensorState::add(const py::object& param, const py::object& entry, unsigned needed) {
  originals_.push_back(param);
  params_.push_back(hold(param));
  auto grad = py::reinterpret_steal<py::object>(PyObject_GetAttr(param.ptr(), Names::get().grad));
  if (!grad) throw py::error_already_set();
  grads_.push_back(hold(std::move(grad)));
  for (int kind = 0; kind < state_count; ++kind) {
    PyObject* array = nullptr;
    if (entry && (needed >> (kind + square_avg) & 1u) != 0) {
      const Names& names = Names::get();
      array = find(entry.ptr(), algorithm_ == Algorithm::adagrad ? names.sum : names.of_rmsprop[kind]);
    }
    entries_[kind].push_back(array == nullptr ? Py_None : hold(owned(array)));
  }
  add_step(entry);
  // Without a count there is no state, so that the optimizer is asked to complete it.
  if (counts_.back().data == nullptr) entries_[0].back() = Py_None;
}

void TensorState::add_step(const py::object& entry) {
  Count& count = counts_.emplace_back();
  std::int64_t& step = steps_.emplace_back(0);
  PyObject* tensor = entry ? find(entry.ptr(), Names::get().step) : nullptr;
  if (tensor == nullptr) return;
  const auto number = number_in(hold(owned(tensor)));
  if (!number) {
    raise_type_error({"state"},
                     "got " + type_name(tensor) +
                         " as 'step', wanted a tensor of float64, float32 or int64 with one element, on the CPU");
  }
  step = count_in(*number);
  count.data = number->data;
  count.kind = number->code == dlpack::signed_int ? Count::int64 : number->bits == 32 ? Count::float32 : Count::float64;
}

void TensorState::resolve_gradient(std::size_t index) {
  const py::handle grad(grads_[index]);
  grads_[index] = hold(grad.attr("resolve_conj")().attr("resolve_neg")());
}

py::list TensorState::originals(const std::vector<std::size_t>& indices) const {
  py::list params(indices.size());
  for (std::size_t i = 0; i < indices.size(); ++i) params[i] = originals_[indices[i]];
  return params;
}

void TensorState::write_steps(const std::vector<std::size_t>& indices) const {
  for (const std::size_t index : indices) {
    const Count& count = counts_[index];
    switch (count.kind) {
      case Count::int64:
        store<std::int64_t>(count.data, steps_[index]);
        break;
      case Count::float32:
        store<float>(count.data, steps_[index]);
        break;
      case Count::float64:
        store<double>(count.data, steps_[index]);
        break;
    }
  }
}

}  // namespace rmsprop::bindings
