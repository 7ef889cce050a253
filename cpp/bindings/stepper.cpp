#include "stepper.hpp"

#include <pybind11/native_enum.h>

#include <algorithm>
#include <array>
#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>

namespace rmsprop::bindings {

// The gradients of a step, whatever they came in.
class Gradients {
 public:
  Gradients(const py::object& grads, const py::object& keys) : keys_(keys) {
    if (keys.is_none()) {
      single_ = grads;
    } else if (PyList_GET_SIZE(keys.ptr()) > 0 && PyUnicode_Check(PyList_GET_ITEM(keys.ptr(), 0))) {
      if (!PyDict_Check(grads.ptr())) raise_kind(grads, "a dict with the names of the parameters");
      by_name_ = grads;
    } else {
      const bool is_sequence = PySequence_Check(grads.ptr()) && !py::isinstance<py::array>(grads);
      if (!is_sequence) raise_kind(grads, "a sequence of arrays, one for each parameter");
      sequence_ = py::reinterpret_steal<py::object>(PySequence_Fast(grads.ptr(), "grads"));
      if (!sequence_) throw py::error_already_set();
    }
  }

  void check_count(std::size_t params) const {
    const auto wanted = static_cast<Py_ssize_t>(params);
    if (sequence_ && PySequence_Fast_GET_SIZE(sequence_.ptr()) != wanted) {
      raise_value_error({"grads"}, "got " + std::to_string(PySequence_Fast_GET_SIZE(sequence_.ptr())) +
                                       " gradients, wanted " + std::to_string(wanted) + ", one for each parameter");
    }
    if (by_name_ && PyDict_GET_SIZE(by_name_.ptr()) != wanted) check_names();
  }

  // Borrowed, and None for a parameter to be skipped.
  PyObject* at(std::size_t index) const {
    if (single_) return single_.ptr();
    const auto i = static_cast<Py_ssize_t>(index);
    if (sequence_) return PySequence_Fast_GET_ITEM(sequence_.ptr(), i);
    PyObject* name = PyList_GET_ITEM(keys_.ptr(), i);
    PyObject* grad = PyDict_GetItemWithError(by_name_.ptr(), name);
    if (grad != nullptr) return grad;
    if (PyErr_Occurred()) throw py::error_already_set();
    raise_value_error({"grads"}, "nothing for parameter " + repr(name) + " (None would skip it)");
  }

 private:
  [[noreturn]] static void raise_kind(const py::object& grads, const char* wanted) {
    raise_type_error({"grads"}, "got " + type_name(grads.ptr()) + ", wanted " + wanted);
  }

  void check_names() const {
    for (auto item : py::reinterpret_borrow<py::dict>(by_name_)) {
      if (!py::reinterpret_borrow<py::list>(keys_).contains(item.first))
        raise_value_error({"grads"}, "unknown parameter " + repr(item.first.ptr()));
    }
  }

  py::object keys_, single_, by_name_, sequence_;
};

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

// Keeps arrays alive while Python code may run that could drop the last reference to them.
class References {
 public:
  explicit References(const std::vector<PyObject*>& objects) : objects_(objects) {
    for (PyObject* object : objects_) Py_XINCREF(object);
  }
  ~References() {
    for (PyObject* object : objects_) Py_XDECREF(object);
  }
  References(const References&) = delete;
  References& operator=(const References&) = delete;

 private:
  const std::vector<PyObject*>& objects_;
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

// The step counts, whose memory is written: checked like any other array.
std::int64_t* checked_steps(const py::object& steps, std::size_t params) {
  if (!py::isinstance<py::array_t<std::int64_t>>(steps)) {
    raise_type_error({"steps"}, "got " + type_name(steps.ptr()) + ", wanted an int64 array");
  }
  auto array = py::reinterpret_borrow<py::array>(steps);
  const bool fits = array.ndim() == 1 && array.shape(0) == static_cast<py::ssize_t>(params) && array.writeable() &&
                    (params < 2 || array.strides(0) == static_cast<py::ssize_t>(sizeof(std::int64_t)));
  if (!fits) raise_value_error({"steps"}, "wanted a dense, writeable array with one entry for each parameter");
  return static_cast<std::int64_t*>(array.mutable_data());
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
std::int64_t most_steps(const py::list& groups, PyObject* group, std::size_t first, const py::object& steps) {
  const std::int64_t* counts = checked_steps(steps, count_params(groups)) + first;
  return std::accumulate(counts, counts + PyList_GET_SIZE(params_of(group)), std::int64_t{0},
                         [](std::int64_t a, std::int64_t b) { return std::max(a, b); });
}

void check_columns(const py::object& keys, const py::tuple& state, std::size_t params) {
  const auto fits = [&](PyObject* list) {
    return PyList_Check(list) && static_cast<std::size_t>(PyList_GET_SIZE(list)) == params;
  };
  if (!(keys.is_none() ? params == 1 : fits(keys.ptr()))) {
    raise_value_error({"keys"}, "wanted a list with one entry for each parameter");
  }
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(state.ptr()); ++i) {
    if (!fits(PyTuple_GET_ITEM(state.ptr(), i))) {
      raise_value_error({"state"}, "wanted lists with one entry for each parameter");
    }
  }
}

}  // namespace

// What a step was called with, its containers checked.
struct Stepper::Arguments {
  const Gradients* grads;  // null to check parameters and state only, what there is of it
  const py::object& keys;
  const py::tuple& state;
  std::int64_t* steps;
};

Label Stepper::label(const Arguments& arguments, std::size_t index, int operand) const {
  PyObject* key = nullptr;
  if (!arguments.keys.is_none()) key = PyList_GET_ITEM(arguments.keys.ptr(), static_cast<Py_ssize_t>(index));
  const bool is_function = naming_ == Naming::function;
  if (operand == param) return {is_function ? "param" : "params", key};
  if (operand == grad) return {is_function ? "grad" : "grads", key};
  const char* entry = entry_name(algorithm_, operand);
  if (is_function) return {entry, key};
  return {"state", key == nullptr ? py::int_(0).ptr() : key, entry};
}

// The hyperparameters of all groups. A schedule may run any Python code, so nothing that was seen of the arguments
// before holds afterwards, and nothing that is seen here is kept.
void Stepper::read_groups(const py::list& groups, const py::object& steps, double grad_scale) {
  groups_.clear();
  std::size_t first = 0;
  for (std::size_t i = 0; i < groups.size(); ++i) {
    const py::object group = groups[i];
    const auto steps_taken = [&] { return most_steps(groups, group.ptr(), first, steps); };
    const int index = groups.size() == 1 ? -1 : static_cast<int>(i);
    groups_.push_back({read_hyperparameters(algorithm_, group.ptr(), index, grad_scale, steps_taken)});
    first += static_cast<std::size_t>(PyList_GET_SIZE(params_of(group.ptr())));
  }
}

// Room for one update per group, or one per parameter where updates differ between steps.
void Stepper::reserve_updates() {
  std::size_t most = 0;
  for (const Group& group : groups_) {
    const bool differs = std::visit([](const auto& h) { return depends_on_step(h); }, group.hyperparameters);
    most += differs ? static_cast<std::size_t>(PyList_GET_SIZE(group.params)) : 1;
  }
  updates_.clear();
  updates_.reserve(most);
}

const Update& Stepper::update_for(Group& group, std::int64_t t) {
  return std::visit(
      [&](const auto& hyperparameters) -> const Update& {
        if (group.update == nullptr || (t != group.t && depends_on_step(hyperparameters))) {
          group.update = &updates_.emplace_back(make_update(hyperparameters, t));
          group.t = t;
        }
        return *group.update;
      },
      group.hyperparameters);
}

// From here to the end of the step no Python code runs, but where Stepper::check_overlap says so.
void Stepper::collect(const Arguments& arguments) {
  tensors_.clear();
  indices_.clear();
  arrays_.clear();
  overlap_.clear();
  layouts_used_ = 0;
  std::size_t index = 0;
  for (Group& group : groups_) {
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(group.params); ++i, ++index) {
      PyObject* gradient = arguments.grads == nullptr ? nullptr : arguments.grads->at(index);
      if (gradient == Py_None) continue;
      if (arguments.steps[index] < 0) raise_value_error(label(arguments, index, param), "its step count is negative");
      add_tensor(arguments, index, PyList_GET_ITEM(group.params, i), gradient,
                 update_for(group, arguments.steps[index] + 1));
    }
  }
}

void Stepper::add_tensor(const Arguments& arguments, std::size_t index, PyObject* param_array, PyObject* grad_array,
                         const Update& update) {
  std::array<View, operand_count> views = {};
  const Label param_label = label(arguments, index, param);
  views[param] = view_of(param_array, param_label);
  check_writeable(views[param], param_label);

  if (grad_array != nullptr) {
    const Label grad_label = label(arguments, index, grad);
    views[grad] = view_of(grad_array, grad_label);
    check_matches(views[grad], grad_label, views[param], param_label);
  }

  const unsigned needed = state_of(update.rule);
  for (int operand = square_avg; operand < operand_count; ++operand) {
    if ((needed >> operand & 1u) == 0) continue;
    const Label state_label = label(arguments, index, operand);
    PyObject* column = PyTuple_GET_ITEM(arguments.state.ptr(), operand - square_avg);
    PyObject* array = PyList_GET_ITEM(column, static_cast<Py_ssize_t>(index));
    if (array == Py_None && arguments.grads == nullptr) continue;
    if (array == Py_None) throw MissingState(state_label.text() + ": got None, but these hyperparameters need it");
    views[operand] = view_of(array, state_label);
    check_matches(views[operand], state_label, views[param], param_label);
    check_writeable(views[operand], state_label);
  }

  Tensor& tensor = tensors_.emplace_back();
  tensor.update = &update;
  tensor.size = views[param].size();
  tensor.dtype = views[param].dtype();
  for (int operand = 0; operand < operand_count; ++operand) {
    const View& view = views[operand];
    arrays_.push_back(view.object());
    if (!view) continue;
    tensor.data[operand] = view.data();
    const auto id = static_cast<OverlapCheck::ArrayId>(arrays_.size() - 1);
    if (operand == grad) {
      overlap_.add_read(extent_of(view), id);
    } else {
      overlap_.add_written(extent_of(view), id);
    }
  }
  if (tensor.size > 0 && !is_plainly_dense(views)) tensor.layout = layout_for(views, tensor);
  indices_.push_back(index);
}

// Null if the operands turn out to be dense after all, such as channels-last ones.
const Layout* Stepper::layout_for(std::span<const View> views, const Tensor& tensor) {
  if (layouts_used_ == layouts_.size()) layouts_.push_back(std::make_unique<Layout>());
  Layout& layout = *layouts_[layouts_used_];
  for (int operand = 0; operand < operand_count; ++operand) {
    if (views[operand]) describe(views[operand], layout, operand);
  }
  if (normalize(layout, tensor)) return nullptr;
  ++layouts_used_;
  return &layout;
}

void Stepper::check_overlap(const Arguments& arguments) {
  const auto label_of = [&](OverlapCheck::ArrayId id) {
    return label(arguments, indices_[id / operand_count], static_cast<int>(id % operand_count));
  };
  const auto view = [&](OverlapCheck::ArrayId id) { return view_of(arrays_[id], label_of(id)); };
  const auto pair = overlap_.find([&](OverlapCheck::ArrayId a, OverlapCheck::ArrayId b) {
    const References alive(arrays_);  // NumPy is asked, and that may collect garbage
    return shares_memory(view(a), view(b));
  });
  if (pair) {
    raise_value_error(label_of(pair->first), "shares memory with " + label_of(pair->second).text() +
                                                 ", so that updating one would change the other");
  }
}

void Stepper::run(int num_threads) const {
  std::int64_t elements = 0;
  for (const Tensor& tensor : tensors_) elements += tensor.size;
  if (elements < elements_worth_releasing_the_gil) {
    rmsprop::step(tensors_, num_threads);
    return;
  }
  const References alive(arrays_);
  const py::gil_scoped_release released;
  rmsprop::step(tensors_, num_threads);
}

// All that a step is given but its gradients.
Stepper::Arguments Stepper::read(const py::list& groups, const Gradients* grads, const py::object& keys,
                                 const py::tuple& state, const py::object& steps, double grad_scale) {
  read_groups(groups, steps, grad_scale);
  const std::size_t params = count_params(groups);
  if (groups.size() != groups_.size()) raise_value_error({"param_groups"}, "a schedule added or removed a group");
  for (std::size_t i = 0; i < groups_.size(); ++i) groups_[i].params = params_of(list_item(groups, i));
  check_columns(keys, state, params);
  if (grads != nullptr) grads->check_count(params);
  return {grads, keys, state, checked_steps(steps, params)};
}

void Stepper::step(const py::list& groups, const py::object& grads, const py::object& keys, const py::tuple& state,
                   const py::object& steps, const py::object& grad_scale, const py::object& num_threads) {
  const BusyGuard guard(busy_);
  const int threads = num_threads_from(num_threads.ptr());
  const Gradients gradients(grads, keys);
  const Arguments arguments = read(groups, &gradients, keys, state, steps, number_from(grad_scale.ptr(), "grad_scale"));
  reserve_updates();
  collect(arguments);
  check_overlap(arguments);
  run(threads);
  for (const std::size_t index : indices_) ++arguments.steps[index];
}

void Stepper::check(const py::list& groups, const py::object& keys, const py::tuple& state, const py::object& steps) {
  const BusyGuard guard(busy_);
  const Arguments arguments = read(groups, nullptr, keys, state, steps, 1.0);
  reserve_updates();
  collect(arguments);
  check_overlap(arguments);
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
      .def("step", &Stepper::step, py::arg("groups"), py::arg("grads"), py::arg("keys"), py::arg("state"),
           py::arg("steps"), py::arg("grad_scale"), py::arg("num_threads"))
      .def("check", &Stepper::check, py::arg("groups"), py::arg("keys"), py::arg("state"), py::arg("steps"))
      .def(py::pickle([](const Stepper& stepper) { return py::make_tuple(stepper.algorithm(), stepper.naming()); },
                      [](const py::tuple& made_from) {
                        return std::make_unique<Stepper>(made_from[0].cast<Algorithm>(), made_from[1].cast<Naming>());
                      }));
}

}  // namespace rmsprop::bindings
