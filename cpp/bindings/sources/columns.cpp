#include "columns.hpp"

#include <limits>
#include <string>

#include "../arrays/views.hpp"

namespace rmsprop::bindings {
Columns::Columns(const Rule& rule, Naming naming, const std::vector<Group>& groups, const py::tuple& columns,
                 const GradientsArgument* grads, const py::object& more)
    : rule_(rule),
      naming_(naming),
      groups_(groups),
      grads_(grads),
      keys_(PyTuple_GET_ITEM(columns.ptr(), 0)),
      state_(PyTuple_GET_ITEM(columns.ptr(), 1)),
      steps_(PyTuple_GET_ITEM(columns.ptr(), 2)) {
  if (more.is_none()) return;
  check(more.ptr());
  more_state_ = PyTuple_GET_ITEM(more.ptr(), 1);
}

void Columns::check(PyObject* columns) {
  if (!PyTuple_Check(columns) || PyTuple_GET_SIZE(columns) != 3) {
    raise_value_error({"columns"}, "wanted a tuple of keys, state and steps");
  }
  PyObject* keys = PyTuple_GET_ITEM(columns, 0);
  if (keys != Py_None && !PyList_Check(keys)) raise_type_error({"keys"}, "wanted a list or None");
}

std::size_t Columns::params() const { return keys_ == Py_None ? 1 : static_cast<std::size_t>(PyList_GET_SIZE(keys_)); }

// From a tuple with a list for each kind of state of the rule, with an entry for each parameter.
Columns::State Columns::state_in(PyObject* columns) const {
  const auto kinds = rule_.info().state;
  if (!PyTuple_Check(columns) || static_cast<std::size_t>(PyTuple_GET_SIZE(columns)) != kinds.size()) {
    raise_value_error({"state"}, "wanted a tuple with a list for each of " + std::to_string(kinds.size()) + " kinds");
  }
  State state;
  for (std::size_t kind = 0; kind < kinds.size(); ++kind) {
    PyObject* list = PyTuple_GET_ITEM(columns, static_cast<Py_ssize_t>(kind));
    Items& items = state[kinds[kind].operand];
    if (PyList_Check(list)) items = Items(list);
    if (!PyList_Check(list) || items.size() != params()) {
      raise_value_error({"state"}, "wanted lists with one entry for each parameter");
    }
  }
  return state;
}

std::optional<Source::Missing> Columns::collect(Gathered& gathered) {
  const std::size_t count = params();
  std::size_t found = 0;
  for (const Group& group : groups_) found += static_cast<std::size_t>(PyList_GET_SIZE(group.params().ptr()));
  if (found != count) {
    raise_value_error({"param_groups"}, "got " + std::to_string(found) + " parameters, wanted the " +
                                            std::to_string(count) + " that there is state for");
  }
  const Items grads = grads_ == nullptr ? Items() : grads_->items(count);
  const State state = state_in(state_);
  const State more = more_state_ == nullptr ? State{} : state_in(more_state_);
  counts_ = counts_of(steps_, count);
  if (counts_ == nullptr) {
    raise_value_error({"steps"}, "wanted a dense, writeable int64 array with one entry for each parameter");
  }
  gathered.make_room(count);
  std::size_t first = 0;
  for (const Group& group : groups_) {
    const Items own(group.params().ptr());
    if (own.size() > count - first) raise_value_error({"param_groups"}, "other code added a parameter meanwhile");
    std::array<Operand, array_count> needed;
    std::size_t kinds = 0;
    for (const StateInfo& kind : rule_.info().state) {
      if ((group.state_needed() >> kind.operand & 1u) != 0) needed[kinds++] = kind.operand;
    }
    for (std::size_t i = 0; i < own.size(); ++i) {
      const std::size_t index = first + i;
      Objects objects = {own[i], grads_ == nullptr ? nullptr : grads[index]};
      if (objects[grad] == Py_None) continue;
      for (std::size_t kind = 0; kind < kinds; ++kind) {
        const Operand operand = needed[kind];
        PyObject* array = state[operand][index];
        if (array == Py_None && more_state_ != nullptr) array = more[operand][index];
        if (array != Py_None) {
          objects[operand] = array;
        } else if (grads_ != nullptr) {
          return Missing{index, operand};
        }
      }
      if (counts_[index] < 0 || counts_[index] == std::numeric_limits<std::int64_t>::max()) {
        raise_value_error(label(index, param),
                          "its step count is " + std::to_string(counts_[index]) + ", wanted one from 0 to 2**63 - 2");
      }
      gathered.add({index, counts_[index] + 1}, objects);
    }
    first += own.size();
    gathered.end_group();
  }
  return std::nullopt;
}

// Puts new state into the empty places of a list. Nothing is compared, and no Python code runs.
void Columns::commit(const Gathered& gathered, bool was_disturbed) {
  if (was_disturbed) counts_ = counts_of(steps_, params());
  const std::size_t count = counts_ == nullptr ? 0 : params();  // other code may have made both smaller
  for (std::size_t i = 0; i < gathered.size(); ++i) {
    const auto& [index, next_step] = gathered.param(i);
    if (index < count) counts_[index] = next_step;
  }
  if (more_state_ == nullptr) return;
  for (Py_ssize_t kind = 0; kind < PyTuple_GET_SIZE(state_); ++kind) {
    PyObject* list = PyTuple_GET_ITEM(state_, kind);
    for (std::size_t index = 0;; ++index) {
      py::object more = item_of(PyTuple_GET_ITEM(more_state_, kind), index);
      const Locked lock(list);
      const auto place = static_cast<Py_ssize_t>(index);
      if (!more || place >= PyList_GET_SIZE(list)) break;
      if (PyList_GET_ITEM(list, place) != Py_None) continue;
      PyList_SET_ITEM(list, place, more.release().ptr());  // None is never freed
    }
  }
}

Label Columns::label(std::size_t index, Operand operand) const {
  py::object key;
  if (keys_ != Py_None) key = item_of(keys_, index);
  if (keys_ != Py_None && !key) key = py::int_(index);  // other code has emptied the list meanwhile
  const bool is_function = naming_ == Naming::function;
  if (operand == param) return {is_function ? "param" : "params", key};
  if (operand == grad) return {is_function ? "grad" : "grads", key};
  const char* entry = name_of_state(rule_, operand);
  if (is_function) return {entry, key};
  return {"state", key ? key : py::int_(0), entry};
}

}  // namespace rmsprop::bindings
