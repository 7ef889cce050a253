#include "stepper.hpp"

#include <pybind11/native_enum.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numeric>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>

namespace rmsprop::bindings {

namespace {

// Below this many elements a step is done before another thread could make use of the GIL.
constexpr std::int64_t elements_worth_releasing_the_gil = 100'000;

class BusyGuard {
 public:
  explicit BusyGuard(std::atomic_flag& busy) : busy_(busy) {
    if (busy_.test_and_set(std::memory_order_acquire)) {
      throw std::runtime_error(
          "step: this optimizer is in the middle of another step, of another thread or of the caller itself");
    }
  }
  ~BusyGuard() { busy_.clear(std::memory_order_release); }
  BusyGuard(const BusyGuard&) = delete;
  BusyGuard& operator=(const BusyGuard&) = delete;

 private:
  std::atomic_flag& busy_;
};

// Lets go of what was gathered for a step when the step ends.
class LetGo {
 public:
  explicit LetGo(TensorState& gathered) : gathered_(gathered) {}
  ~LetGo() { gathered_.clear(); }
  LetGo(const LetGo&) = delete;
  LetGo& operator=(const LetGo&) = delete;

 private:
  TensorState& gathered_;
};

// The entry of state and of messages that an operand stands for.
const char* entry_name(Algorithm algorithm, int operand) {
  switch (operand) {
    case square_avg:
      return algorithm == Algorithm::adagrad ? "sum" : "square_avg";
    case grad_avg:
      return "grad_avg";
    default:
      return "momentum_buffer";
  }
}

py::list groups_from(const py::object& object) {
  if (!PyList_Check(object.ptr())) {
    raise_type_error({"param_groups"}, "got " + type_name(object.ptr()) + ", wanted a list of dicts");
  }
  return py::reinterpret_borrow<py::list>(object);
}

PyObject* list_item(const py::list& list, std::size_t i) {
  return PyList_GET_ITEM(list.ptr(), static_cast<Py_ssize_t>(i));
}

// Borrowed.
PyObject* params_of(PyObject* group) {
  static PyObject* const key = PyUnicode_InternFromString("params");
  PyObject* params = PyDict_Check(group) ? PyDict_GetItemWithError(group, key) : nullptr;
  if (params == nullptr || !PyList_Check(params)) {
    raise_value_error({"param_groups"}, "wanted a dict per group, with a list of arrays as 'params'");
  }
  return params;
}

std::size_t count_params(const py::list& groups) {
  Py_ssize_t count = 0;
  for (std::size_t i = 0; i < groups.size(); ++i) count += PyList_GET_SIZE(params_of(list_item(groups, i)));
  return static_cast<std::size_t>(count);
}

// The most steps that any parameter of the group has taken: what a schedule is asked with.
std::int64_t most_steps(const py::list& groups, PyObject* group, std::size_t first, PyObject* steps) {
  const std::size_t params = count_params(groups);
  const auto own = static_cast<std::size_t>(PyList_GET_SIZE(params_of(group)));
  if (first + own > params) raise_value_error({"param_groups"}, "a schedule added or removed a group");
  const std::int64_t* counts = counts_of(steps, params, {"steps"}) + first;
  return std::accumulate(counts, counts + own, std::int64_t{0},
                         [](std::int64_t a, std::int64_t b) { return std::max(a, b); });
}

void check_columns(Algorithm algorithm, PyObject* keys, PyObject* state, std::size_t params) {
  if (keys != Py_None && !PyList_Check(keys)) raise_type_error({"keys"}, "wanted a list or None");
  const std::size_t known = keys == Py_None ? 1 : static_cast<std::size_t>(PyList_GET_SIZE(keys));
  if (params != known) {
    raise_value_error({"param_groups"}, "got " + std::to_string(params) + " parameters, wanted the " +
                                            std::to_string(known) + " that there is state for");
  }
  const Py_ssize_t kinds = algorithm == Algorithm::adagrad ? 1 : state_count;
  if (!PyTuple_Check(state) || PyTuple_GET_SIZE(state) != kinds) {
    raise_value_error({"state"}, "wanted a tuple with a list for each of " + std::to_string(kinds) + " kinds");
  }
  for (Py_ssize_t i = 0; i < kinds; ++i) {
    PyObject* list = PyTuple_GET_ITEM(state, i);
    if (!PyList_Check(list) || static_cast<std::size_t>(PyList_GET_SIZE(list)) != params) {
      raise_value_error({"state"}, "wanted lists with one entry for each parameter");
    }
  }
}

// Puts a tensor into the place of one of the step before. Returns whether it is the same dense memory. Then hardly
// anything is written, so that what other threads have in their caches stays good. The pointers are compared one by
// one, because == of their arrays calls a function of the C library, which takes longer.
bool replace(Tensor& before, const Tensor& tensor) {
  bool same = tensor.size == before.size && tensor.dtype == before.dtype && tensor.packing == before.packing &&
              tensor.layout == nullptr && before.layout == nullptr;
  for (int operand = 0; operand < operand_count; ++operand) same = same && tensor.data[operand] == before.data[operand];
  if (!same) {
    before = tensor;
  } else if (before.update != tensor.update) {
    before.update = tensor.update;
  }
  return same;
}

}  // namespace

// What a step was called with, its containers checked: an entry for each parameter, in the order of the groups.
// Borrowed, and good until Python code runs.
struct Stepper::Arguments {
  PyObject* keys;                                   // a list, or None
  PyObject* const* grads;                           // null to check parameters and state only, what there is of it
  std::array<PyObject* const*, state_count> state;  // arrays or None, by operand; null where the rule has no such state
  std::int64_t* steps;
};

// Keeps what a step was given alive while Python code may run that could drop the last reference to it. The memory for
// the list of it serves again in the next step.
class Stepper::References {
 public:
  explicit References(std::vector<PyObject*>& memory) : held_(memory) { held_.clear(); }
  ~References() {
    for (PyObject* object : held_) Py_XDECREF(object);
  }
  void hold(PyObject* object) {
    Py_XINCREF(object);
    held_.push_back(object);
  }
  References(const References&) = delete;
  References& operator=(const References&) = delete;

 private:
  std::vector<PyObject*>& held_;
};

// Where the arguments come from. Runs no Python code.
class Stepper::Source {
 public:
  explicit Source(const py::list& groups) : groups_(groups) {}
  virtual ~Source() = default;
  Source(const Source&) = delete;
  Source& operator=(const Source&) = delete;

  const py::list& groups() const { return groups_; }
  virtual Arguments read(Algorithm algorithm, std::size_t params) const = 0;
  // The parameters in the order of the groups, or null if they are those that the groups hold.
  virtual PyObject* const* params() const { return nullptr; }

 private:
  const py::list& groups_;
};

// Our own optimizers, and functions.
class Stepper::Columns : public Source {
 public:
  Columns(const py::list& groups, const Gradients* grads, const py::tuple& columns)
      : Source(groups), grads_(grads), columns_(columns) {}

  Arguments read(Algorithm algorithm, std::size_t params) const override {
    PyObject* keys = PyTuple_GET_ITEM(columns_.ptr(), 0);
    PyObject* state = PyTuple_GET_ITEM(columns_.ptr(), 1);
    check_columns(algorithm, keys, state, params);
    if (grads_ != nullptr) grads_->check_count(params);
    Arguments arguments = {keys, grads_ == nullptr ? nullptr : grads_->items(), {}, nullptr};
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(state); ++i) {
      arguments.state[static_cast<std::size_t>(i)] = PySequence_Fast_ITEMS(PyTuple_GET_ITEM(state, i));
    }
    arguments.steps = counts_of(PyTuple_GET_ITEM(columns_.ptr(), 2), params, {"steps"});
    return arguments;
  }

 private:
  const Gradients* grads_;
  const py::tuple& columns_;
};

// Optimizers of PyTorch.
class Stepper::Tensors : public Source {
 public:
  Tensors(const py::list& groups, TensorState& state, bool with_gradients)
      : Source(groups), state_(state), with_gradients_(with_gradients) {}

  Arguments read(Algorithm /*algorithm*/, std::size_t params) const override {
    if (params != state_.size()) {
      throw std::runtime_error("step: parameters were added or removed by other code in the middle of it");
    }
    Arguments arguments = {Py_None, with_gradients_ ? state_.grads() : nullptr, {}, state_.steps()};
    for (int i = 0; i < state_count; ++i) arguments.state[static_cast<std::size_t>(i)] = state_.entries(i);
    return arguments;
  }

  PyObject* const* params() const override { return state_.params(); }

 private:
  TensorState& state_;
  bool with_gradients_;
};

Label Stepper::label(const Arguments& arguments, std::size_t index, int operand) const {
  const char* entry = entry_name(algorithm_, operand);
  if (naming_ == Naming::torch) {
    py::object key = torch_name(index);
    if (operand == grad) return {"params", key, nullptr, "grad"};
    return operand == param ? Label{"params", key} : Label{"state", key, entry};
  }
  py::object key;
  if (arguments.keys != Py_None) {
    key = py::reinterpret_borrow<py::object>(PyList_GET_ITEM(arguments.keys, static_cast<Py_ssize_t>(index)));
  }
  const bool is_function = naming_ == Naming::function;
  if (operand == param) return {is_function ? "param" : "params", key};
  if (operand == grad) return {is_function ? "grad" : "grads", key};
  if (is_function) return {entry, key};
  return {"state", key ? key : py::int_(0), entry};
}

// Its name, if its group has names, or its number, counted over all groups.
py::object Stepper::torch_name(std::size_t index) const {
  std::size_t first = 0;
  for (const Group& group : groups_) {
    if (index < first + group.count) {
      PyObject* names = PyDict_GetItemString(group.dict, "param_names");
      const auto i = static_cast<Py_ssize_t>(index - first);
      const bool has_name = names != nullptr && PyList_Check(names) && i < PyList_GET_SIZE(names);
      if (has_name) return py::reinterpret_borrow<py::object>(PyList_GET_ITEM(names, i));
      break;
    }
    first += group.count;
  }
  return py::int_(index);
}

// The hyperparameters of all groups. A schedule may run any Python code, so nothing that was seen of the arguments
// before holds afterwards, and nothing that is seen here is kept.
void Stepper::read_groups(const py::list& groups, PyObject* steps, double grad_scale) {
  groups_.resize(groups.size());
  std::size_t first = 0;
  for (std::size_t i = 0; i < groups_.size() && i < groups.size(); ++i) {
    const auto dict = py::reinterpret_borrow<py::object>(list_item(groups, i));
    const auto steps_taken = [&] { return most_steps(groups, dict.ptr(), first, steps); };
    Group& group = groups_[i];
    const Dialect dialect = naming_ == Naming::torch ? Dialect::torch : Dialect::own;
    if (group.hyperparameters.read(algorithm_, dialect, dict.ptr(), groups.size() == 1 ? -1 : static_cast<int>(i),
                                   grad_scale, steps_taken)) {
      const auto of_rule = [](const auto& h) { return state_of(make_update(h, 1).rule); };
      group.state_needed = std::visit(of_rule, group.hyperparameters.get());
      const auto differs = [](const auto& h) { return depends_on_step(h); };
      group.differs_between_steps = std::visit(differs, group.hyperparameters.get());
      group.t = 0;
    }
    first += static_cast<std::size_t>(PyList_GET_SIZE(params_of(dict.ptr())));
  }
}

void Stepper::find_params(const py::list& groups) {
  if (groups.size() != groups_.size()) raise_value_error({"param_groups"}, "a schedule added or removed a group");
  for (std::size_t i = 0; i < groups_.size(); ++i) {
    groups_[i].dict = list_item(groups, i);
    PyObject* params = params_of(groups_[i].dict);
    groups_[i].params = PySequence_Fast_ITEMS(params);
    groups_[i].count = static_cast<std::size_t>(PyList_GET_SIZE(params));
  }
}

// Makes room, so that nothing moves while tensors point to updates.
void Stepper::reserve(std::size_t params) {
  tensors_.resize(params);
  elements_ = 0;
  indices_.clear();
  indices_.reserve(params);
  arrays_.resize(params);
  unusual_.clear();
  layouts_used_ = 0;
  updates_.clear();
  std::size_t updates = 0;
  for (const Group& group : groups_) {
    if (group.differs_between_steps) updates += group.count;
  }
  updates_.reserve(updates);
}

// Parameters of one group share an update as long as it does not depend on the step or they have taken equally many.
const Update& Stepper::update_for(Group& group, std::int64_t t) {
  const auto make = [t](const auto& hyperparameters) { return make_update(hyperparameters, t); };
  if (group.t == 0) {
    group.update = std::visit(make, group.hyperparameters.get());
    group.t = t;
  }
  if (group.t == t || !group.differs_between_steps) return group.update;
  return updates_.emplace_back(std::visit(make, group.hyperparameters.get()));
}

// From Stepper::read to the end of this no Python code runs, so what is borrowed stays.
void Stepper::collect(const Arguments& arguments) {
  bool are_proven = std::exchange(tensors_are_proven_disjoint_, false);
  std::size_t index = 0;
  for (Group& group : groups_) {
    group.own_updates = updates_.size();
    if (group.differs_between_steps) group.t = 0;  // made anew, for the step that its first parameter is at
    for (std::size_t i = 0; i < group.count; ++i, ++index) {
      PyObject* gradient = arguments.grads == nullptr ? nullptr : arguments.grads[index];
      if (gradient == Py_None) continue;
      const std::size_t n = indices_.size();
      arrays_[n] = {group.params[i], gradient};
      find_state(arguments, index, group.state_needed, arrays_[n]);
      indices_.push_back(index);
      Tensor tensor;
      tensor.update = &update_for(group, next_step(arguments, index));
      if (!describe_ordinary(arrays_[n], tensor)) {
        unusual_.push_back(n);
        describe_any(arguments, index, arrays_[n], tensor);
      }
      elements_ += tensor.size;
      are_proven = replace(tensors_[n], tensor) && are_proven;
    }
  }
  tensors_.resize(indices_.size());  // what is left of an earlier step has not been compared with these
  arrays_.resize(indices_.size());
  tensors_are_proven_disjoint_ = are_proven;
}

std::int64_t Stepper::next_step(const Arguments& arguments, std::size_t index) const {
  const std::int64_t count = arguments.steps[index];
  if (count >= 0 && count < std::numeric_limits<std::int64_t>::max()) return count + 1;
  raise_value_error(label(arguments, index, param),
                    "its step count is " + std::to_string(count) + ", wanted one from 0 to 2**63 - 2");
}

void Stepper::find_state(const Arguments& arguments, std::size_t index, unsigned needed, Objects& objects) const {
  for (int operand = square_avg; operand < operand_count; ++operand) {
    if ((needed >> operand & 1u) == 0) continue;
    PyObject* array = arguments.state[static_cast<std::size_t>(operand - square_avg)][index];
    if (array != Py_None) {
      objects[operand] = array;
    } else if (arguments.grads != nullptr) {
      throw MissingState(label(arguments, index, operand).text() + ": got None, but these hyperparameters need it");
    }
  }
}

// Everything that can be wrong with an array is found here, and any layout understood.
void Stepper::describe_any(const Arguments& arguments, std::size_t index, const Objects& objects, Tensor& tensor) {
  std::array<View, operand_count> views = {};
  const Label param_label = label(arguments, index, param);
  for (int operand = 0; operand < operand_count; ++operand) {
    if (objects[operand] == nullptr) continue;
    const Label operand_label = label(arguments, index, operand);
    views[operand] = view_of(objects[operand], operand_label);
    if (operand != param) check_matches(views[operand], operand_label, views[param], param_label, operand > grad);
    if (operand != grad) check_writeable(views[operand], operand_label);
    tensor.data[operand] = views[operand].data();
  }
  tensor.size = views[param].size();
  tensor.dtype = views[param].type().dtype;
  tensor.packing = {views[param].type().packing, views[param].type().packing};
  if (tensor.size > 0) tensor.layout = layout_for(views, tensor);
}

Layout& Stepper::next_layout() {
  if (layouts_used_ == layouts_.size()) layouts_.push_back(std::make_unique<Layout>());
  return *layouts_[layouts_used_];
}

// Null if the operands turn out to be dense after all, such as channels-last ones.
const Layout* Stepper::layout_for(std::span<const View> views, const Tensor& tensor) {
  Layout& layout = next_layout();
  for (int operand = 0; operand < operand_count; ++operand) {
    if (views[operand]) describe(views[operand], layout, operand);
  }
  if (normalize(layout, tensor)) return nullptr;
  ++layouts_used_;
  return &layout;
}

// Memory that was found disjoint is so for as long as it is the same memory. Returns whether NumPy was asked, so that
// Python code may have run.
bool Stepper::check_overlap(const Arguments& arguments) {
  if (tensors_are_proven_disjoint_) return false;
  bool asked = false;
  const auto label_of = [&](OverlapCheck::ArrayId id) {
    return label(arguments, indices_[id / operand_count], static_cast<int>(id % operand_count));
  };
  const auto array = [&](OverlapCheck::ArrayId id) { return arrays_[id / operand_count][id % operand_count]; };
  const auto view = [&](OverlapCheck::ArrayId id) { return view_of(array(id), label_of(id)); };
  overlap_.clear();
  for (OverlapCheck::ArrayId id = 0; id < arrays_.size() * operand_count; ++id) {
    if (array(id) == nullptr) continue;
    if (id % operand_count == grad) {
      overlap_.add_read(extent_of(view(id)), id);
    } else {
      overlap_.add_written(extent_of(view(id)), id);
    }
  }
  const auto pair = overlap_.find([&](OverlapCheck::ArrayId a, OverlapCheck::ArrayId b) {
    asked = true;
    return shares_memory(view(a), view(b));
  });
  if (pair) {
    raise_value_error(label_of(pair->first), "shares memory with " + label_of(pair->second).text() +
                                                 ", so that updating one would change the other");
  }
  tensors_are_proven_disjoint_ = true;
  return asked;
}

bool Stepper::needs_gradients_first() const {
  const auto clips = [](const Group& group) { return std::isfinite(group.hyperparameters.clip_norm()); };
  return nonfinite_ != Nonfinite::propagate || std::any_of(groups_.begin(), groups_.end(), clips);
}

// Layouts are in the order of the elements here: a norm must not depend on where its elements lie.
void Stepper::collect_gradients(const Arguments& arguments) {
  gradients_.clear();
  for (std::size_t i = 0; i < tensors_.size(); ++i) {
    const View view = view_of(arrays_[i][grad], label(arguments, indices_[i], grad));
    Tensor& gradient = gradients_.emplace_back();
    gradient.data[grad] = view.data();
    gradient.update = tensors_[i].update;
    gradient.size = tensors_[i].size;
    gradient.dtype = tensors_[i].dtype;
    gradient.packing = tensors_[i].packing;
    if (gradient.size == 0 || (view.is_c_contiguous() && view.is_aligned())) continue;
    Layout& layout = next_layout();
    describe(view, layout, grad);
    if (normalize_in_order(layout, gradient)) continue;
    gradient.layout = &layout;
    ++layouts_used_;
  }
}

// Tells each group's updates by how much to scale its gradients.
void Stepper::clip(double sum_of_squares) {
  std::size_t end = updates_.size();
  for (auto group = groups_.rbegin(); group != groups_.rend(); ++group) {
    if (std::isfinite(group->hyperparameters.clip_norm())) {
      const double scale = clip_scale(sum_of_squares, group->hyperparameters.clip_norm());
      set_clip_scale(group->update, scale);
      for (std::size_t i = group->own_updates; i < end; ++i) set_clip_scale(updates_[i], scale);
    }
    end = group->own_updates;
  }
}

// What must be known of all gradients before the first byte is written. False if the step is to be skipped.
bool Stepper::prepare_gradients(const Arguments& arguments) {
  collect_gradients(arguments);
  double total = 0.0;
  without_gil([&] { total = sum_of_squares(gradients_, num_threads_); });
  if (nonfinite_ != Nonfinite::propagate && !std::isfinite(total)) {
    // The sum of squares can overflow where every gradient is finite, so each is looked at.
    for (std::size_t i = 0; i < gradients_.size(); ++i) {
      if (is_finite(gradients_[i])) continue;
      if (nonfinite_ == Nonfinite::skip) return false;
      raise_value_error(label(arguments, indices_[i], grad), "got a NaN or an infinity, and nonfinite is 'raise'");
    }
  }
  clip(total);
  return true;
}

bool Stepper::is_worth_releasing_the_gil() const { return elements_ >= elements_worth_releasing_the_gil; }

template <class Work>
void Stepper::without_gil(Work work) const {
  std::optional<py::gil_scoped_release> released;
  if (is_worth_releasing_the_gil()) released.emplace();
  work();
}

// Runs no Python code, like all up to check_overlap.
Stepper::Arguments Stepper::read(const Source& source) {
  find_params(source.groups());
  std::size_t params = 0;
  for (Group& group : groups_) {
    if (source.params() != nullptr) group.params = source.params() + params;
    params += group.count;
  }
  const Arguments arguments = source.read(algorithm_, params);
  reserve(params);
  return arguments;
}

// After Python code may have run: everything is looked at anew, and has to be the same memory as before.
Stepper::Arguments Stepper::collect_again(const Source& source, References& alive) {
  const std::vector<Objects> arrays = arrays_;
  const std::vector<Tensor> tensors = tensors_;
  const Arguments arguments = read(source);
  collect(arguments);
  hold_all(alive);
  const auto same_memory = [](const Tensor& a, const Tensor& b) { return a.data == b.data && a.size == b.size; };
  if (arrays != arrays_ || !std::equal(tensors.begin(), tensors.end(), tensors_.begin(), tensors_.end(), same_memory)) {
    throw std::runtime_error("step: arrays were replaced or resized by other code while they were being checked");
  }
  return arguments;
}

// Looks for an array that is not what its memory says, and raises ValueError. Returns whether arrays were asked, so
// that Python code may have run.
bool Stepper::find_lazy(const Arguments& arguments) const {
  bool asked = false;
  for (const std::size_t tensor : unusual_) {
    for (int operand = 0; operand < operand_count; ++operand) {
      PyObject* array = arrays_[tensor][operand];
      if (array == nullptr || !has_exchange_api(Py_TYPE(array))) continue;
      asked = true;
      const Label own_label = label(arguments, indices_[tensor], operand);
      if (!is_lazy(view_of(array, own_label))) continue;
      if (operand == grad && naming_ == Naming::torch) throw LazyGradient(indices_[tensor]);
      raise_value_error(own_label,
                        "got a lazily conjugated or negated tensor, wanted one in memory as it is "
                        "(.resolve_conj().resolve_neg())");
    }
  }
  return asked;
}

// The arrays, and the groups, which have the names that messages need.
void Stepper::hold_all(References& references) const {
  for (const Objects& objects : arrays_) {
    for (PyObject* array : objects) references.hold(array);
  }
  for (const Group& group : groups_) references.hold(group.dict);
}

bool Stepper::attempt(const Source& source) {
  Arguments arguments = read(source);
  collect(arguments);
  References alive(held_);
  if (is_worth_releasing_the_gil() || !unusual_.empty() || !tensors_are_proven_disjoint_) hold_all(alive);
  const bool lazy_asked = find_lazy(arguments);
  if (lazy_asked) arguments = collect_again(source, alive);
  if (check_overlap(arguments)) arguments = collect_again(source, alive);
  if (needs_gradients_first() && !prepare_gradients(arguments)) {
    ++skipped_steps_;
    return false;
  }
  without_gil([&] { rmsprop::step(tensors_, num_threads_); });
  for (const std::size_t index : indices_) ++arguments.steps[index];
  return true;
}

void Stepper::step(const py::object& groups_object, const py::object& grads, const py::tuple& columns,
                   const py::object& grad_scale, const py::object& owner) {
  const BusyGuard guard(busy_);
  const py::list groups = groups_from(groups_object);
  if (columns.size() != 3) raise_value_error({"columns"}, "wanted a tuple of keys, state and steps");
  const double scale = number_from(grad_scale.ptr(), "grad_scale");
  read_groups(groups, PyTuple_GET_ITEM(columns.ptr(), 2), scale);
  const Gradients gradients(grads, PyTuple_GET_ITEM(columns.ptr(), 0), naming_ == Naming::function ? "grad" : "grads");
  try {
    attempt(Columns(groups, &gradients, columns));
    return;
  } catch (const MissingState&) {
    if (owner.is_none()) throw;
  }
  // A hyperparameter was changed to one that needs more state. A step that is not taken must not leave it behind, and
  // one that is must not lose it: no Python code runs before it is in its place, where an interrupt could arrive.
  const py::object more = owner.attr("_columns_with_missing_state")();
  const py::tuple more_columns = more.attr("for_engine");
  if (attempt(Columns(groups, &gradients, more_columns))) owner.attr("_columns") = more;
}

// What PyTorch raises for tensors it cannot step is a RuntimeError.
template <class Work>
auto Stepper::with_errors_of_torch(Work work) {
  try {
    return work();
  } catch (const UnusableArray& error) {
    throw std::runtime_error(error.what());
  }
}

void Stepper::step_tensors(const py::object& groups_object, const py::dict& state, const py::object& grad_scale,
                           const py::object& owner, const py::object& tell) {
  const BusyGuard guard(busy_);
  const py::list groups = groups_from(groups_object);
  read_groups(groups, Py_None, number_from(grad_scale.ptr(), "grad_scale"));
  find_params(groups);
  const LetGo let_go(gathered_);
  const auto attempt_with = [&](const py::dict& entries) {
    gathered_.gather(groups, entries, state_needed());
    return with_errors_of_torch([&] {
      for (;;) {
        try {
          return attempt(Tensors(groups, gathered_, true));
        } catch (const LazyGradient& lazy) {
          gathered_.resolve_gradient(lazy.index);
        }
      }
    });
  };
  bool taken = false;
  try {
    taken = attempt_with(state);
  } catch (const MissingState&) {
    const py::dict entries = owner.attr("_entries_with_missing_state")();
    taken = attempt_with(entries);
    // As in `step`. A dict that is merged into another brings its hashes along.
    if (taken && PyDict_Update(state.ptr(), entries.ptr()) != 0) throw py::error_already_set();
  }
  if (!taken) return;
  gathered_.write_steps(indices_);
  const py::list written = gathered_.originals(indices_);
  if (written.empty()) return;
  try {
    tell(written);
  } catch (const py::error_already_set&) {
    tell(written);  // the first call met an interrupt that had waited for the end of the step
    throw;
  }
}

// Of each group.
std::vector<unsigned> Stepper::state_needed() const {
  std::vector<unsigned> needed;
  needed.reserve(groups_.size());
  for (const Group& group : groups_) needed.push_back(group.state_needed);
  return needed;
}

void Stepper::check(const py::object& groups_object, const py::tuple& columns) {
  const BusyGuard guard(busy_);
  const py::list groups = groups_from(groups_object);
  if (columns.size() != 3) raise_value_error({"columns"}, "wanted a tuple of keys, state and steps");
  read_groups(groups, PyTuple_GET_ITEM(columns.ptr(), 2), 1.0);
  check_arrays(Columns(groups, nullptr, columns));
}

void Stepper::check_tensors(const py::object& groups_object, const py::dict& state) {
  const BusyGuard guard(busy_);
  const py::list groups = groups_from(groups_object);
  read_groups(groups, Py_None, 1.0);
  find_params(groups);
  const LetGo let_go(gathered_);
  gathered_.gather(groups, state, state_needed());
  with_errors_of_torch([&] { check_arrays(Tensors(groups, gathered_, false)); });
}

void Stepper::check_arrays(const Source& source) {
  Arguments arguments = read(source);
  collect(arguments);
  References alive(held_);
  hold_all(alive);
  if (find_lazy(arguments)) arguments = collect_again(source, alive);
  check_overlap(arguments);
}

py::str Stepper::nonfinite() const {
  switch (nonfinite_) {
    case Nonfinite::skip:
      return "skip";
    case Nonfinite::raise:
      return "raise";
    default:
      return "propagate";
  }
}

void register_stepper(py::module_& m) {
  py::native_enum<Algorithm>(m, "Algorithm", "enum.Enum")
      .value("rmsprop", Algorithm::rmsprop)
      .value("adagrad", Algorithm::adagrad)
      .finalize();
  py::native_enum<Naming>(m, "Naming", "enum.Enum")
      .value("optimizer", Naming::optimizer)
      .value("function", Naming::function)
      .value("torch", Naming::torch)
      .finalize();
  py::class_<Stepper>(m, "Stepper")
      .def(py::init<Algorithm, Naming>(), py::arg("algorithm"), py::arg("naming"))
      .def("step", &Stepper::step, py::arg("groups"), py::arg("grads"), py::arg("columns"), py::arg("grad_scale"),
           py::arg("owner"))
      .def("step_tensors", &Stepper::step_tensors, py::arg("groups"), py::arg("state"), py::arg("grad_scale"),
           py::arg("owner"), py::arg("tell"))
      .def("check", &Stepper::check, py::arg("groups"), py::arg("columns"))
      .def("check_tensors", &Stepper::check_tensors, py::arg("groups"), py::arg("state"))
      .def_property("nonfinite", &Stepper::nonfinite, &Stepper::set_nonfinite)
      .def_property("skipped_steps", &Stepper::skipped_steps, &Stepper::set_skipped_steps)
      .def_property("num_threads", &Stepper::num_threads, &Stepper::set_num_threads)
      .def(py::pickle(
          [](const Stepper& stepper) {
            return py::make_tuple(stepper.algorithm(), stepper.naming(), stepper.nonfinite(), stepper.num_threads(),
                                  stepper.skipped_steps());
          },
          [](const py::tuple& made_from) {
            auto stepper = std::make_unique<Stepper>(made_from[0].cast<Algorithm>(), made_from[1].cast<Naming>());
            stepper->set_nonfinite(made_from[2]);
            stepper->set_num_threads(made_from[3]);
            stepper->set_skipped_steps(made_from[4].cast<std::int64_t>());
            return stepper;
          }));
}

}  // namespace rmsprop::bindings
