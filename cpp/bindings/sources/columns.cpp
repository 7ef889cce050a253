#include "columns.hpp"

#include <algorithm>
#include <limits>
#include <string>

#include "../arrays/views.hpp"

namespace rmsprop::bindings {
namespace {

constexpr std::int64_t most_step_counts = std::numeric_limits<std::int64_t>::max();

std::int64_t* counts_in(const py::object& steps, std::size_t params) {
  std::int64_t* counts = counts_of(steps.ptr(), params);
  if (counts == nullptr) {
    raise_value_error({"steps"}, "wanted a dense, writeable int64 array with one entry for each parameter");
  }
  return counts;
}

std::size_t size_of(const py::object& keys) {
  return keys.is_none() ? 1 : static_cast<std::size_t>(PyList_GET_SIZE(keys.ptr()));
}

}  // namespace

std::int64_t most_steps(const py::object& steps, std::size_t first, std::size_t count) {
  const auto all = static_cast<std::size_t>(std::max<Py_ssize_t>(PyObject_Length(steps.ptr()), 0));
  const std::int64_t* counts = counts_in(steps, all);
  if (first + count > all) raise_value_error({"param_groups"}, "a schedule added or removed a group");
  std::int64_t most = 0;
  for (std::size_t i = first; i < first + count; ++i) most = std::max(most, counts[i]);
  return most;
}

Columns::Columns(const Rule& rule, Naming naming, const std::vector<Group>& groups, const py::tuple& columns,
                 const GradientsArgument* grads, const py::object& allocate)
    : rule_(rule),
      naming_(naming),
      groups_(groups),
      grads_(grads),
      allocate_(allocate),
      keys_(keys_in(columns)),
      state_(columns[1]),
      steps_(columns[2]) {}

py::object Columns::keys_in(const py::tuple& columns) {
  if (columns.size() != 3) raise_value_error({"columns"}, "wanted a tuple of keys, state and steps");
  py::object keys = columns[0];
  if (!keys.is_none() && !PyList_Check(keys.ptr())) raise_type_error({"keys"}, "wanted a list or None");
  return keys;
}

Items Columns::state_column(const py::object& state, std::size_t kind, std::size_t params) const {
  const std::size_t kinds = rule_.info().state.size();
  if (!PyTuple_Check(state.ptr()) || static_cast<std::size_t>(PyTuple_GET_SIZE(state.ptr())) != kinds) {
    raise_value_error({"state"}, "wanted a tuple with a list for each of " + std::to_string(kinds) + " kinds");
  }
  PyObject* list = PyTuple_GET_ITEM(state.ptr(), static_cast<Py_ssize_t>(kind));
  if (!PyList_Check(list)) raise_value_error({"state"}, "wanted lists with one entry for each parameter");
  Items items(list);
  if (items.size() != params) raise_value_error({"state"}, "wanted lists with one entry for each parameter");
  return items;
}

std::optional<Source::Missing> Columns::collect(Gathered& gathered) {
  const std::size_t params = size_of(keys_);
  std::size_t found = 0;
  for (const Group& group : groups_) found += static_cast<std::size_t>(PyList_GET_SIZE(group.params().ptr()));
  if (found != params) {
    raise_value_error({"param_groups"}, "got " + std::to_string(found) + " parameters, wanted the " +
                                            std::to_string(params) + " that there is state for");
  }
  const Items grads = grads_ == nullptr ? Items() : grads_->items(params);
  const auto kinds = rule_.info().state;
  std::array<Items, operand_count> state;
  for (std::size_t kind = 0; kind < kinds.size(); ++kind) {
    state[kinds[kind].operand] = state_column(completed_state_ ? completed_state_ : state_, kind, params);
  }
  const std::int64_t* counts = counts_in(steps_, params);
  std::size_t index = 0;
  for (const Group& group : groups_) {
    const Items own(group.params().ptr());
    for (std::size_t i = 0; i < own.size(); ++i, ++index) {
      if (index >= params) raise_value_error({"param_groups"}, "other code added a parameter meanwhile");
      Objects objects = {own[i], grads_ == nullptr ? nullptr : grads[index]};
      if (objects[grad] == Py_None) continue;
      for (const StateInfo& kind : kinds) {
        if ((group.state_needed() >> kind.operand & 1u) == 0) continue;
        PyObject* array = state[kind.operand][index];
        if (array != Py_None) {
          objects[kind.operand] = array;
        } else if (grads_ != nullptr) {
          return Missing{index, kind.operand};
        }
      }
      if (counts[index] < 0 || counts[index] == most_step_counts) {
        gathered.hold();
        raise_value_error(label(index, param),
                          "its step count is " + std::to_string(counts[index]) + ", wanted one from 0 to 2**63 - 2");
      }
      gathered.add({index, counts[index] + 1}, objects);
    }
    gathered.end_group();
  }
  return std::nullopt;
}

void Columns::complete() {
  if (allocate_.is_none()) return;
  const py::tuple columns = allocate_();
  keys_in(columns);
  completed_state_ = columns[1];
  completed_.clear();
  for (std::size_t kind = 0; kind < rule_.info().state.size(); ++kind) {
    completed_.push_back(state_column(completed_state_, kind, size_of(keys_)));
  }
}

// Where a list has nothing it gets what was made; nothing is compared, and no Python code runs.
void Columns::commit(const Gathered& gathered, bool /*was_disturbed*/) {
  if (std::int64_t* counts = counts_of(steps_.ptr(), size_of(keys_))) {
    for (std::size_t i = 0; i < gathered.size(); ++i) counts[gathered.param(i).index] = gathered.param(i).next_step;
  }
  for (std::size_t kind = 0; kind < completed_.size(); ++kind) {
    PyObject* list = PyTuple_GET_ITEM(state_.ptr(), static_cast<Py_ssize_t>(kind));
    const Locked lock(list);
    for (std::size_t index = 0; index < completed_[kind].size(); ++index) {
      const auto place = static_cast<Py_ssize_t>(index);
      if (place >= PyList_GET_SIZE(list) || PyList_GET_ITEM(list, place) != Py_None) continue;
      PyList_SET_ITEM(list, place, owned(completed_[kind][index]).release().ptr());  // None is never freed
    }
  }
}

Label Columns::label(std::size_t index, Operand operand) const {
  py::object key;
  if (!keys_.is_none()) key = owned(Items(keys_.ptr())[index]);
  const bool is_function = naming_ == Naming::function;
  if (operand == param) return {is_function ? "param" : "params", key};
  if (operand == grad) return {is_function ? "grad" : "grads", key};
  const char* entry = name_of_state(rule_, operand);
  if (is_function) return {entry, key};
  return {"state", key ? key : py::int_(0), entry};
}

}  // namespace rmsprop::bindings
