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

// Keeps the arrays of a step alive while Python code may run that could drop the last reference to them. The memory for
// the list of them serves again in the next step.
class References {
 public:
  References(const std::vector<PyObject*>& arrays, std::vector<PyObject*>& memory) : held_(memory) {
    held_ = arrays;
    for (PyObject* array : held_) Py_XINCREF(array);
  }
  ~References() {
    for (PyObject* array : held_) Py_XDECREF(array);
  }
  References(const References&) = delete;
  References& operator=(const References&) = delete;

 private:
  std::vector<PyObject*>& held_;
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
  const Py_ssize_t kinds = algorithm == Algorithm::adagrad ? 1 : operand_count - square_avg;
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

}  // namespace

// What a step was called with, its containers checked.
struct Stepper::Arguments {
  const Gradients* grads;  // null to check parameters and state only, what there is of it
  PyObject* keys;          // a list, or None
  PyObject* state;         // a tuple of lists
  std::int64_t* steps;
};

Label Stepper::label(const Arguments& arguments, std::size_t index, int operand) const {
  PyObject* key = nullptr;
  if (arguments.keys != Py_None) key = PyList_GET_ITEM(arguments.keys, static_cast<Py_ssize_t>(index));
  const bool is_function = naming_ == Naming::function;
  if (operand == param) return {is_function ? "param" : "params", key};
  if (operand == grad) return {is_function ? "grad" : "grads", key};
  const char* entry = entry_name(algorithm_, operand);
  if (is_function) return {entry, key};
  return {"state", key == nullptr ? py::int_(0).ptr() : key, entry};
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
    if (group.hyperparameters.read(algorithm_, dict.ptr(), groups.size() == 1 ? -1 : static_cast<int>(i), grad_scale,
                                   steps_taken)) {
      group.t = 0;
    }
    first += static_cast<std::size_t>(PyList_GET_SIZE(params_of(dict.ptr())));
  }
}

// Makes room, so that nothing moves while tensors point to updates.
void Stepper::reserve(std::size_t params) {
  tensors_.clear();
  tensors_.reserve(params);
  indices_.clear();
  indices_.reserve(params);
  arrays_.clear();
  arrays_.reserve(params * operand_count);
  layouts_used_ = 0;
  updates_.clear();
  std::size_t updates = 0;
  for (const Group& group : groups_) {
    if (differs_between_steps(group)) updates += static_cast<std::size_t>(PyList_GET_SIZE(group.params));
  }
  updates_.reserve(updates);
}

bool Stepper::differs_between_steps(const Group& group) {
  return std::visit([](const auto& h) { return depends_on_step(h); }, group.hyperparameters.get());
}

// Parameters of one group share an update as long as it does not depend on the step or they have taken equally many.
const Update& Stepper::update_for(Group& group, std::int64_t t) {
  const auto make = [t](const auto& hyperparameters) { return make_update(hyperparameters, t); };
  if (group.t == 0) {
    group.update = std::visit(make, group.hyperparameters.get());
    group.t = t;
  }
  if (group.t == t || !differs_between_steps(group)) return group.update;
  return updates_.emplace_back(std::visit(make, group.hyperparameters.get()));
}

// From Stepper::read to the end of this no Python code runs, so what is borrowed stays.
void Stepper::collect(const Arguments& arguments) {
  std::size_t index = 0;
  for (Group& group : groups_) {
    group.own_updates = updates_.size();
    if (differs_between_steps(group)) group.t = 0;  // made anew, for the step that its first parameter is at
    const Py_ssize_t count = PyList_GET_SIZE(group.params);
    for (Py_ssize_t i = 0; i < count; ++i, ++index) {
      Objects objects = {PyList_GET_ITEM(group.params, i), nullptr};
      if (arguments.grads != nullptr) objects[grad] = arguments.grads->at(index);
      if (objects[grad] == Py_None) continue;
      check_count(arguments, index);
      const Update& update = update_for(group, arguments.steps[index] + 1);
      find_state(arguments, index, update, objects);
      indices_.push_back(index);
      arrays_.insert(arrays_.end(), objects.begin(), objects.end());
      Tensor& tensor = tensors_.emplace_back();
      tensor.update = &update;
      if (!describe_ordinary(objects, tensor)) describe_any(arguments, index, objects, tensor);
    }
  }
}

void Stepper::check_count(const Arguments& arguments, std::size_t index) const {
  const std::int64_t count = arguments.steps[index];
  if (count < 0 || count == std::numeric_limits<std::int64_t>::max()) {
    raise_value_error(label(arguments, index, param),
                      "its step count is " + std::to_string(count) + ", wanted one from 0 to 2**63 - 2");
  }
}

void Stepper::find_state(const Arguments& arguments, std::size_t index, const Update& update, Objects& objects) const {
  const unsigned needed = state_of(update.rule);
  for (int operand = square_avg; operand < operand_count; ++operand) {
    if ((needed >> operand & 1u) == 0) continue;
    PyObject* column = PyTuple_GET_ITEM(arguments.state, operand - square_avg);
    PyObject* array = PyList_GET_ITEM(column, static_cast<Py_ssize_t>(index));
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
    if (operand != param) check_matches(views[operand], operand_label, views[param], param_label);
    if (operand != grad) check_writeable(views[operand], operand_label);
    tensor.data[operand] = views[operand].data();
  }
  tensor.size = views[param].size();
  tensor.dtype = views[param].dtype();
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

// Memory that was found disjoint is so for as long as it is the same memory.
bool Stepper::is_proven_disjoint() const {
  const auto is_same_memory = [](const Tensor& a, const Tensor& b) {
    bool same = a.size == b.size && a.dtype == b.dtype && a.layout == nullptr && b.layout == nullptr;
    for (int operand = 0; operand < operand_count; ++operand) same = same && a.data[operand] == b.data[operand];
    return same;
  };
  return std::equal(tensors_.begin(), tensors_.end(), proven_disjoint_.begin(), proven_disjoint_.end(), is_same_memory);
}

// Returns whether NumPy was asked, so that Python code may have run.
bool Stepper::check_overlap(const Arguments& arguments) {
  if (is_proven_disjoint()) return false;
  bool asked = false;
  const auto label_of = [&](OverlapCheck::ArrayId id) {
    return label(arguments, indices_[id / operand_count], static_cast<int>(id % operand_count));
  };
  const auto view = [&](OverlapCheck::ArrayId id) { return view_of(arrays_[id], label_of(id)); };
  overlap_.clear();
  for (OverlapCheck::ArrayId id = 0; id < arrays_.size(); ++id) {
    if (arrays_[id] == nullptr) continue;
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
  proven_disjoint_ = tensors_;
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
    const View view = view_of(arrays_[i * operand_count + grad], label(arguments, indices_[i], grad));
    Tensor& gradient = gradients_.emplace_back();
    gradient.data[grad] = view.data();
    gradient.update = tensors_[i].update;
    gradient.size = tensors_[i].size;
    gradient.dtype = tensors_[i].dtype;
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

bool Stepper::is_worth_releasing_the_gil() const {
  std::int64_t elements = 0;
  for (const Tensor& tensor : tensors_) elements += tensor.size;
  return elements >= elements_worth_releasing_the_gil;
}

template <class Work>
void Stepper::without_gil(Work work) const {
  std::optional<py::gil_scoped_release> released;
  if (is_worth_releasing_the_gil()) released.emplace();
  work();
}

// All that a step is given, its containers checked. Runs no Python code.
Stepper::Arguments Stepper::read(const py::list& groups, const Gradients* grads, const py::tuple& columns) {
  if (columns.size() != 3) raise_value_error({"columns"}, "wanted a tuple of keys, state and steps");
  PyObject* keys = PyTuple_GET_ITEM(columns.ptr(), 0);
  PyObject* state = PyTuple_GET_ITEM(columns.ptr(), 1);
  PyObject* steps = PyTuple_GET_ITEM(columns.ptr(), 2);
  const std::size_t params = count_params(groups);
  if (groups.size() != groups_.size()) raise_value_error({"param_groups"}, "a schedule added or removed a group");
  for (std::size_t i = 0; i < groups_.size(); ++i) groups_[i].params = params_of(list_item(groups, i));
  check_columns(algorithm_, keys, state, params);
  if (grads != nullptr) grads->check_count(params);
  reserve(params);
  return {grads, keys, state, counts_of(steps, params, {"steps"})};
}

// After Python code may have run: everything is looked at anew, and has to be the same memory as before.
Stepper::Arguments Stepper::collect_again(const py::list& groups, const Gradients* grads, const py::tuple& columns) {
  const std::vector<PyObject*> arrays = arrays_;
  const std::vector<Tensor> tensors = tensors_;
  const Arguments arguments = read(groups, grads, columns);
  collect(arguments);
  const auto same_memory = [](const Tensor& a, const Tensor& b) { return a.data == b.data && a.size == b.size; };
  if (arrays != arrays_ || !std::equal(tensors.begin(), tensors.end(), tensors_.begin(), tensors_.end(), same_memory)) {
    throw std::runtime_error("step: arrays were replaced or resized by other code while they were being checked");
  }
  return arguments;
}

bool Stepper::attempt(const py::list& groups, const Gradients& grads, const py::tuple& columns) {
  Arguments arguments = read(groups, &grads, columns);
  collect(arguments);
  std::optional<References> alive;
  if (is_worth_releasing_the_gil() || !is_proven_disjoint()) alive.emplace(arrays_, held_);
  if (check_overlap(arguments)) arguments = collect_again(groups, &grads, columns);
  if (needs_gradients_first() && !prepare_gradients(arguments)) return false;
  without_gil([&] { rmsprop::step(tensors_, num_threads_); });
  for (const std::size_t index : indices_) ++arguments.steps[index];
  return true;
}

bool Stepper::step(const py::object& groups_object, const py::object& grads, const py::tuple& columns,
                   const py::object& grad_scale, const py::object& owner) {
  const BusyGuard guard(busy_);
  const py::list groups = groups_from(groups_object);
  if (columns.size() != 3) raise_value_error({"columns"}, "wanted a tuple of keys, state and steps");
  const double scale = number_from(grad_scale.ptr(), "grad_scale");
  read_groups(groups, PyTuple_GET_ITEM(columns.ptr(), 2), scale);
  const Gradients gradients(grads, PyTuple_GET_ITEM(columns.ptr(), 0), naming_ == Naming::function ? "grad" : "grads");
  try {
    return attempt(groups, gradients, columns);
  } catch (const MissingState&) {
    if (owner.is_none()) throw;
  }
  // A hyperparameter was changed to one that needs more state. A step that fails must not leave it behind.
  const py::object more = owner.attr("_columns_with_missing_state")();
  const bool taken = attempt(groups, gradients, more.attr("for_engine"));
  owner.attr("_use_columns")(more);
  return taken;
}

void Stepper::check(const py::object& groups_object, const py::tuple& columns) {
  const BusyGuard guard(busy_);
  const py::list groups = groups_from(groups_object);
  if (columns.size() != 3) raise_value_error({"columns"}, "wanted a tuple of keys, state and steps");
  read_groups(groups, PyTuple_GET_ITEM(columns.ptr(), 2), 1.0);
  const Arguments arguments = read(groups, nullptr, columns);
  collect(arguments);
  const References alive(arrays_, held_);
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
      .finalize();
  py::class_<Stepper>(m, "Stepper")
      .def(py::init<Algorithm, Naming>(), py::arg("algorithm"), py::arg("naming"))
      .def("step", &Stepper::step, py::arg("groups"), py::arg("grads"), py::arg("columns"), py::arg("grad_scale"),
           py::arg("owner"))
      .def("check", &Stepper::check, py::arg("groups"), py::arg("columns"))
      .def_property("nonfinite", &Stepper::nonfinite, &Stepper::set_nonfinite)
      .def_property("num_threads", &Stepper::num_threads, &Stepper::set_num_threads)
      .def(py::pickle(
          [](const Stepper& stepper) {
            return py::make_tuple(stepper.algorithm(), stepper.naming(), stepper.nonfinite(), stepper.num_threads());
          },
          [](const py::tuple& made_from) {
            auto stepper = std::make_unique<Stepper>(made_from[0].cast<Algorithm>(), made_from[1].cast<Naming>());
            stepper->set_nonfinite(made_from[2]);
            stepper->set_num_threads(made_from[3]);
            return stepper;
          }));
}

}  // namespace rmsprop::bindings
