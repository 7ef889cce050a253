#include "tensors.hpp"

#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <utility>

#include "../arrays/dlpack.hpp"
#include "../arrays/lazy.hpp"
#include "../arrays/views.hpp"

namespace rmsprop::bindings {
namespace {

PyObject* interned(const char* name) { return PyUnicode_InternFromString(name); }

struct Names {
  PyObject* grad = interned("grad");
  PyObject* step = interned("step");
  PyObject* param_names = interned("param_names");

  static const Names& get() {
    static const Names names;
    return names;
  }
};

// Tensors in a form that look() accepts. Those of older versions of PyTorch are exported.
py::object viewable(py::object tensor) {
  if (tensor.is_none() || is_viewable(tensor.ptr())) return tensor;
  py::object capsule = exported(tensor.ptr());
  return capsule ? capsule : tensor;
}

// The state of optimizers is usually in the order of their parameters. So the next entry is tried first, which saves a
// look-up with PyTorch's hash of the parameter.
py::object entry_of(PyObject* state, PyObject* param, Py_ssize_t& position) {
  py::object entry;
  {
    const Locked lock(state);
    PyObject* key = nullptr;
    PyObject* value = nullptr;
    Py_ssize_t next = position;
    if (PyDict_Next(state, &next, &key, &value) != 0 && key == param) {
      position = next;
      entry = owned(value);
    }
  }
  if (!entry) entry = find(state, param);
  if (entry && !PyDict_Check(entry.ptr())) {
    raise_type_error({"state"}, "got " + type_name(entry.ptr()) + ", wanted a dict for each parameter");
  }
  return entry;
}

// By how many parameters memory is fetched ahead of its use.
constexpr std::size_t lead = 4;

// Asks the CPU for the memory that the first words of an object point to, whatever they are: it ignores what is no
// address. An object of PyTorch has its tensor there, and a dict its table. Not without a GIL, where another thread may
// be writing these words.
void prefetch_referents([[maybe_unused]] const PyObject* object) {
#if defined(__GNUC__) && !defined(Py_GIL_DISABLED)
  constexpr std::size_t words = 4;
  if (object == nullptr ||
      Py_TYPE(object)->tp_basicsize < static_cast<Py_ssize_t>(sizeof *object + words * sizeof(void*)))
    return;
  std::array<const char*, words> addresses;
  std::memcpy(static_cast<void*>(addresses.data()), object + 1, sizeof addresses);
  for (const char* address : addresses) {
    __builtin_prefetch(address);
    __builtin_prefetch(address + 64);
  }
#endif
}

template <class T>
std::optional<std::int64_t> load(const void* data) {
  T value;
  std::memcpy(&value, data, sizeof value);
  constexpr double too_many = 9223372036854775808.0;  // 2^63
  const auto number = static_cast<double>(value);
  if (!(number >= 0.0 && number < too_many && number == std::floor(number))) return std::nullopt;
  return static_cast<std::int64_t>(value);
}

template <class T>
void store(void* data, std::int64_t count) {
  const auto value = static_cast<T>(count);
  std::memcpy(data, &value, sizeof value);
}

}  // namespace

Tensors::Tensors(const Rule& rule, const std::vector<Group>& groups, const py::dict& state, bool with_gradients,
                 const py::object& more, const py::object& on_written, TensorsMemory& memory, std::int64_t first_number)
    : rule_(rule),
      groups_(groups),
      with_gradients_(with_gradients),
      state_(state),
      more_(more),
      on_written_(on_written),
      memory_(memory),
      first_number_(first_number) {
  if (!more.is_none() && !PyDict_Check(more.ptr())) raise_type_error({"state"}, "wanted a dict of what is missing");
  gather(more.is_none() ? state : more);
}

Tensors::~Tensors() {
  // Taken out first: a destructor may run Python code.
  TensorsMemory taken;
  std::swap(taken, memory_);
  taken.entries_.clear();
  taken.ends_.clear();
  if (memory_.entries_.empty()) std::swap(taken, memory_);
}

void Tensors::gather(const py::object& state) {
  std::vector<Entry>& entries = memory_.entries_;
  entries.clear();
  memory_.ends_.clear();
  Py_ssize_t position = 0;
  for (const Group& group : groups_) {
    PyObject* params = group.params().ptr();
    for (std::size_t i = 0;; ++i) {
      Entry entry;
      entry.param = item_of(params, i);
      if (!entry.param) break;
      entry.dict = entry_of(state.ptr(), entry.param.ptr(), position);
      entries.push_back(std::move(entry));
    }
    memory_.ends_.push_back(entries.size());
  }
  // What the next ones refer to comes into the caches meanwhile: each object is elsewhere in memory.
  const auto prefetch_ahead = [&](std::size_t i, auto... members) {
    if (i + lead < entries.size()) (prefetch_referents((entries[i + lead].*members).ptr()), ...);
  };
  std::size_t i = 0;
  for (std::size_t g = 0; g < groups_.size(); ++g) {
    for (; i < memory_.ends_[g]; ++i) {
      prefetch_ahead(i, &Entry::param, &Entry::dict);
      look_up(groups_[g], entries[i]);
    }
  }
  if (!with_gradients_) return;
  // Now that all is held: PyTorch lets other threads run.
  for (i = 0; i < entries.size(); ++i) {
    prefetch_ahead(i, &Entry::grad, &Entry::step);
    if (i + lead < entries.size()) prefetch_referents(entries[i + lead].state[square_avg].ptr());
    entries[i].grad = resolved(std::move(entries[i].grad));
    if (!entries[i].grad.is_none()) written_.append(entries[i].param);
  }
}

void Tensors::look_up(const Group& group, Entry& entry) const {
  if (with_gradients_) {
    auto grad = py::reinterpret_steal<py::object>(PyObject_GetAttr(entry.param.ptr(), Names::get().grad));
    if (!grad) throw py::error_already_set();
    entry.grad = viewable(std::move(grad));
  }
  if (entry.dict && !entry.grad.is_none()) {
    for (const StateInfo& kind : rule_.info().state) {
      if ((group.state_needed() >> kind.operand & 1u) == 0) continue;
      py::object array = find(entry.dict.ptr(), rule_.state_key(kind.operand));
      if (array) entry.state[kind.operand] = viewable(std::move(array));
    }
    py::object step = find(entry.dict.ptr(), Names::get().step);
    if (step) entry.step = viewable(std::move(step));
  }
  entry.viewable = viewable(entry.param);
}

// Runs no Python code.
Tensors::Count Tensors::count_of(const Entry& entry) {
  if (!entry.step) return {};
  ForeignArray array;
  if (!look_at(entry.step.ptr(), array) || array.tensor.data == nullptr || array.tensor.device.type != dlpack::cpu) {
    return {};
  }
  for (int d = 0; d < array.tensor.ndim; ++d) {
    if (array.tensor.shape[d] != 1) return {};
  }
  const dlpack::DataType& type = array.tensor.dtype;
  if (type.lanes != 1 || array.is_read_only) return {};
  Count count;
  if (type.code == dlpack::real && type.bits == 64) count.kind = Count::float64;
  if (type.code == dlpack::real && type.bits == 32) count.kind = Count::float32;
  if (type.code == dlpack::signed_int && type.bits == 64) count.kind = Count::int64;
  if (count.kind == Count::none) return {};
  count.data = static_cast<std::byte*>(array.tensor.data) + array.tensor.byte_offset;
  return count;
}

std::optional<std::int64_t> Tensors::value_of(const Count& count) {
  switch (count.kind) {
    case Count::int64:
      return load<std::int64_t>(count.data);
    case Count::float32:
      return load<float>(count.data);
    case Count::float64:
      return load<double>(count.data);
    default:
      return std::nullopt;
  }
}

void Tensors::write(const Count& count, std::int64_t steps) {
  switch (count.kind) {
    case Count::int64:
      return store<std::int64_t>(count.data, steps);
    case Count::float32:
      return store<float>(count.data, steps);
    case Count::float64:
      return store<double>(count.data, steps);
    default:
      return;
  }
}

std::int64_t Tensors::steps_taken(std::size_t index, Gathered& gathered) {
  Entry& entry = memory_.entries_[index];
  entry.count = count_of(entry);
  const auto steps = value_of(entry.count);
  if (steps && *steps < std::numeric_limits<std::int64_t>::max()) return *steps;
  gathered.hold();  // what follows may run Python code
  if (entry.count.kind == TensorsMemory::Count::none) {
    raise_type_error({"state"},
                     "got " + type_name(entry.step.ptr()) +
                         " as 'step', wanted a tensor of float64, float32 or int64 with one element, on the CPU");
  }
  raise_value_error(label(index, param), "its step count in the state, 'step', is " +
                                             py::str(entry.step.attr("item")()).cast<std::string>() +
                                             ", wanted a whole number from 0 to 2**63 - 2");
}

std::optional<Source::Missing> Tensors::collect(Gathered& gathered) {
  gathered.make_room(memory_.entries_.size());
  std::size_t index = 0;
  for (std::size_t g = 0; g < groups_.size(); ++g) {
    for (; index < memory_.ends_[g]; ++index) {
      const Entry& entry = memory_.entries_[index];
      if (entry.grad.is_none()) continue;
      Objects objects = {entry.viewable.ptr(), entry.grad.ptr()};
      for (const StateInfo& kind : rule_.info().state) {
        if ((groups_[g].state_needed() >> kind.operand & 1u) == 0) continue;
        objects[kind.operand] = entry.state[kind.operand].ptr();
        if (objects[kind.operand] == nullptr && with_gradients_) return Missing{index, kind.operand};
      }
      std::int64_t steps = 0;
      if (entry.step) {
        steps = steps_taken(index, gathered);
      } else if (with_gradients_) {
        return Missing{index, rule_.info().state.front().operand};
      }
      gathered.add({index, steps + 1}, objects);
    }
    gathered.end_group();
  }
  return std::nullopt;
}

void Tensors::commit(const Gathered& gathered, bool was_disturbed) {
  for (std::size_t i = 0; i < gathered.size(); ++i) {
    const auto& [index, next_step] = gathered.param(i);
    const Entry& entry = memory_.entries_[index];
    write(was_disturbed ? count_of(entry) : entry.count, next_step);
  }
  // Merging a dict into another reuses its hashes.
  if (!more_.is_none() && PyDict_Update(state_.ptr(), more_.ptr()) != 0) throw py::error_already_set();
  if (written_.empty() || on_written_.is_none()) return;
  try {
    on_written_(written_);
  } catch (const py::error_already_set&) {
    on_written_(written_);  // the first call met an interrupt that had waited for the end of the step
    throw;
  }
}

// By its name, if its group has names, or its number, counted over all groups.
Label Tensors::label(std::size_t index, Operand operand) const {
  py::object key = py::int_(index);
  for (std::size_t g = 0, first = 0; g < groups_.size(); first = memory_.ends_[g++]) {
    if (index >= memory_.ends_[g]) continue;
    const py::object names = find(groups_[g].dict().ptr(), Names::get().param_names);
    const py::object name = names && PyList_Check(names.ptr()) ? item_of(names.ptr(), index - first) : py::object();
    if (name) key = name;
    break;
  }
  if (operand == grad) return {"params", key, nullptr, "grad"};
  return operand == param ? Label{"params", key} : Label{"state", key, name_of_state(rule_, operand)};
}

}  // namespace rmsprop::bindings
