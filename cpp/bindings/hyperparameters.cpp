#include "hyperparameters.hpp"

#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>

#include "errors.hpp"
#include "rmsprop/runtime.hpp"

namespace rmsprop::bindings {
namespace {

// A key of a group. Its string is interned and lives as long as the process, so that a look-up compares pointers.
struct Key {
  const char* name;
  PyObject* string;
  explicit Key(const char* text) : name(text), string(PyUnicode_InternFromString(text)) {}
};

struct Keys {
  Key params{"params"}, name{"name"};
  Key initial_accumulator_value{"initial_accumulator_value"};
  Key lr{"lr"}, alpha{"alpha"}, eps{"eps"}, eps_in_sqrt{"eps_in_sqrt"}, centered{"centered"};
  Key momentum{"momentum"}, nesterov{"nesterov"}, lr_in_momentum{"lr_in_momentum"};
  Key bias_correction{"bias_correction"}, lr_decay{"lr_decay"};
  Key weight_decay{"weight_decay"}, decoupled_weight_decay{"decoupled_weight_decay"};
  Key maximize{"maximize"}, clip_value{"clip_value"}, clip_norm{"clip_norm"};

  static const Keys& get() {
    static const Keys keys;
    return keys;
  }
};

bool is_bool(PyObject* object) {
  if (PyBool_Check(object)) return true;
  if (PyFloat_CheckExact(object) || PyLong_CheckExact(object)) return false;
  return py::isinstance(py::handle(object), py::module_::import("numpy").attr("bool_"));
}

// Never the value of a class that could give another number tomorrow, nor a schedule.
bool is_immutable(PyObject* value) {
  return PyFloat_CheckExact(value) || PyLong_CheckExact(value) || PyBool_Check(value) || PyUnicode_CheckExact(value) ||
         value == Py_None;
}

bool flag_from(PyObject* object, const char* name) {
  if (object == Py_False) return false;
  if (object == Py_True) return true;
  if (!is_bool(object)) raise_type_error({name}, "got " + type_name(object) + ", wanted a bool");
  return py::handle(object).cast<bool>();
}

// Reads a group key by key and remembers which ones, so that a key that means nothing is found and not ignored.
class GroupReader {
 public:
  GroupReader(PyObject* group, Dialect dialect) : group_(group), dialect_(dialect) {}

  // Null if there is no such key. A reference of its own: what is done with a value may run code that drops it.
  py::object find(const Key& key) {
    PyObject* value = PyDict_GetItemWithError(group_, key.string);
    if (value != nullptr) {
      known_[known_count_++] = key.string;
    } else if (PyErr_Occurred() != nullptr) {
      throw py::error_already_set();
    }
    return py::reinterpret_borrow<py::object>(value);
  }

  py::object get(const Key& key) {
    py::object value = find(key);
    if (!value) raise_value_error({key.name}, "missing from the parameter group");
    return value;
  }

  double number(const Key& key) { return number_from(get(key).ptr(), key.name); }
  bool flag(const Key& key) { return flag_from(get(key).ptr(), key.name); }

  // None means no limit.
  double limit(const Key& key) {
    const py::object value = get(key);
    if (value.is_none()) return std::numeric_limits<double>::infinity();
    const double number = number_from(value.ptr(), key.name);
    if (!std::isfinite(number) || number < 0.0) {
      raise_value_error({key.name}, "got " + repr(value.ptr()) + ", wanted a finite number >= 0 or None");
    }
    return number;
  }

  double learning_rate(const std::function<std::int64_t()>& steps_taken) {
    const Key& key = Keys::get().lr;
    const py::object value = get(key);
    const bool is_schedule = dialect_ == Dialect::own && PyCallable_Check(value.ptr()) != 0;
    if (PyFloat_CheckExact(value.ptr()) || !is_schedule) return number_from(number_of(value).ptr(), key.name);
    const py::object result = value(steps_taken());
    return number_from(result.ptr(), key.name);
  }

  void finish() {
    if (dialect_ == Dialect::torch || PyDict_GET_SIZE(group_) == known_count_) return;
    const auto keys =
        py::reinterpret_steal<py::list>(PyDict_Keys(group_));  // comparing them may run code that changes it
    for (const py::handle key : keys) {
      if (!is_known(key)) raise_value_error({"param_groups"}, "unknown key " + repr(key.ptr()));
    }
  }

 private:
  // PyTorch's schedulers change a learning rate that is a tensor in place.
  py::object number_of(const py::object& value) const {
    const bool is_tensor = dialect_ == Dialect::torch && py::hasattr(value, "item");
    return is_tensor ? py::object(value.attr("item")()) : value;
  }

  bool is_known(py::handle key) const {
    for (int i = 0; i < known_count_; ++i) {
      if (key.equal(py::handle(known_[static_cast<std::size_t>(i)]))) return true;
    }
    return false;
  }

  PyObject* group_;
  Dialect dialect_;
  std::array<PyObject*, sizeof(Keys) / sizeof(Key)> known_ = {};
  int known_count_ = 0;
};

void read_common(GroupReader& group) {
  const Keys& keys = Keys::get();
  group.find(keys.params);
  group.find(keys.name);
  if (const py::object value = group.find(keys.initial_accumulator_value)) {
    const char* name = keys.initial_accumulator_value.name;
    const double number = number_from(value.ptr(), name);
    if (!(std::isfinite(number) && number >= 0.0)) {
      raise_value_error({name}, "got " + repr(value.ptr()) + ", wanted a finite number >= 0");
    }
  }
}

Preparation read_preparation(GroupReader& group, double grad_scale) {
  const Keys& keys = Keys::get();
  Preparation prepare;
  prepare.grad_scale = grad_scale;
  prepare.clip_value = group.limit(keys.clip_value);
  prepare.maximize = group.flag(keys.maximize);
  prepare.weight_decay = group.number(keys.weight_decay);
  prepare.decoupled_weight_decay = group.flag(keys.decoupled_weight_decay);
  return prepare;
}

RMSprop read_rmsprop(GroupReader& group, double lr, double grad_scale) {
  const Keys& keys = Keys::get();
  RMSprop h;
  h.lr = lr;
  h.alpha = group.number(keys.alpha);
  h.eps = group.number(keys.eps);
  h.eps_in_sqrt = group.flag(keys.eps_in_sqrt);
  h.centered = group.flag(keys.centered);
  h.momentum = group.number(keys.momentum);
  h.nesterov = group.flag(keys.nesterov);
  h.lr_in_momentum = group.flag(keys.lr_in_momentum);
  h.bias_correction = group.flag(keys.bias_correction);
  h.prepare = read_preparation(group, grad_scale);
  return h;
}

Adagrad read_adagrad(GroupReader& group, double lr, double grad_scale) {
  const Keys& keys = Keys::get();
  Adagrad h;
  h.lr = lr;
  h.lr_decay = group.number(keys.lr_decay);
  h.eps = group.number(keys.eps);
  h.eps_in_sqrt = group.flag(keys.eps_in_sqrt);
  h.prepare = read_preparation(group, grad_scale);
  return h;
}

struct CheckedGroup {
  Hyperparameters hyperparameters;
  double clip_norm;
};

CheckedGroup read_checked(Algorithm algorithm, Dialect dialect, PyObject* dict, double grad_scale,
                          const std::function<std::int64_t()>& steps_taken) {
  if (!PyDict_Check(dict)) raise_type_error({"param_groups"}, "got " + type_name(dict) + ", wanted a dict per group");
  GroupReader group(dict, dialect);
  // First of all, since a schedule may run any Python code, even code that changes this group.
  const double lr = group.learning_rate(steps_taken);
  CheckedGroup result = {};
  if (algorithm == Algorithm::rmsprop) {
    result.hyperparameters = read_rmsprop(group, lr, grad_scale);
  } else {
    result.hyperparameters = read_adagrad(group, lr, grad_scale);
  }
  result.clip_norm = group.limit(Keys::get().clip_norm);
  read_common(group);
  group.finish();
  std::visit([](const auto& hyperparameters) { check(hyperparameters); }, result.hyperparameters);
  return result;
}

}  // namespace

double number_from(PyObject* object, const char* name) {
  if (PyFloat_CheckExact(object)) return PyFloat_AS_DOUBLE(object);
  const bool is_number =
      !is_bool(object) && (PyLong_Check(object) || PyFloat_Check(object) ||
                           py::isinstance(py::handle(object), py::module_::import("numbers").attr("Real")));
  if (!is_number) raise_type_error({name}, "got " + type_name(object) + ", wanted a number");
  const double number = PyFloat_AsDouble(object);
  if (number == -1.0 && PyErr_Occurred()) {
    PyErr_Clear();
    raise_value_error({name}, "got " + repr(object) + ", wanted a number that a float can hold");
  }
  return number;
}

Nonfinite nonfinite_from(PyObject* object) {
  if (!PyUnicode_Check(object)) raise_type_error({"nonfinite"}, "got " + type_name(object) + ", wanted a str");
  const auto is = [object](const char* name) { return PyUnicode_CompareWithASCIIString(object, name) == 0; };
  if (is("propagate")) return Nonfinite::propagate;
  if (is("skip")) return Nonfinite::skip;
  if (is("raise")) return Nonfinite::raise;
  raise_value_error({"nonfinite"}, "got " + repr(object) + ", wanted 'propagate', 'skip' or 'raise'");
}

int num_threads_from(PyObject* object) {
  if (object == Py_None) return 0;
  if (!PyLong_Check(object) || PyBool_Check(object)) {
    raise_type_error({"num_threads"}, "got " + type_name(object) + ", wanted an int or None");
  }
  const long n = PyLong_AsLong(object);
  if (PyErr_Occurred()) PyErr_Clear();
  if (n < 1 || n > max_num_threads) {
    raise_value_error({"num_threads"},
                      "got " + repr(object) + ", wanted a number from 1 to " + std::to_string(max_num_threads));
  }
  return static_cast<int>(n);
}

bool GroupHyperparameters::read(Algorithm algorithm, Dialect dialect, PyObject* group, int group_index,
                                double grad_scale, const std::function<std::int64_t()>& steps_taken) {
  if (is_remembered(group, grad_scale)) return false;
  const auto prefixed = [&](const char* message) {
    return group_index < 0 ? std::string(message) : "param_groups[" + std::to_string(group_index) + "]: " + message;
  };
  try {
    const CheckedGroup checked = read_checked(algorithm, dialect, group, grad_scale, steps_taken);
    value_ = checked.hyperparameters;
    clip_norm_ = checked.clip_norm;
  } catch (const py::type_error& error) {
    throw py::type_error(prefixed(error.what()));
  } catch (const py::value_error& error) {
    throw py::value_error(prefixed(error.what()));
  } catch (const std::invalid_argument& error) {
    throw py::value_error(prefixed(error.what()));
  }
  remember(group, grad_scale);
  return true;
}

bool GroupHyperparameters::is_remembered(PyObject* group, double grad_scale) const {
  // By bits: 0.0 and -0.0 are equal, and give gradients of other signs.
  const bool same_scale = std::bit_cast<std::uint64_t>(grad_scale) == std::bit_cast<std::uint64_t>(grad_scale_);
  if (seen_.empty() || !same_scale || !PyDict_Check(group)) return false;
  if (PyDict_GET_SIZE(group) != static_cast<Py_ssize_t>(seen_.size())) return false;
  Py_ssize_t position = 0;
  PyObject* key = nullptr;
  PyObject* value = nullptr;
  for (const auto& [seen_key, seen_value] : seen_) {
    PyDict_Next(group, &position, &key, &value);
    if (key != seen_key.ptr() || (seen_value && value != seen_value.ptr())) return false;
  }
  return true;
}

void GroupHyperparameters::remember(PyObject* group, double grad_scale) {
  seen_.clear();
  grad_scale_ = grad_scale;
  Py_ssize_t position = 0;
  PyObject* key = nullptr;
  PyObject* value = nullptr;
  while (PyDict_Next(group, &position, &key, &value) != 0) {
    const bool is_list = PyList_CheckExact(value) != 0;  // of parameters, or of their names
    if (!is_list && !is_immutable(value)) {
      seen_.clear();
      return;
    }
    seen_.emplace_back(py::reinterpret_borrow<py::object>(key),
                       is_list ? py::object() : py::reinterpret_borrow<py::object>(value));
  }
}

}  // namespace rmsprop::bindings
