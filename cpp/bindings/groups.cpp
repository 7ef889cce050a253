#include "groups.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <stdexcept>
#include <utility>

#include "arrays/views.hpp"
#include "messages.hpp"
#include "rmsprop/runtime.hpp"

namespace rmsprop::bindings {
namespace {

using Kind = HyperparameterInfo::Kind;

PyObject* interned(const char* text) { return PyUnicode_InternFromString(text); }

struct Keys {
  PyObject* params = interned("params");
  PyObject* name = interned("name");

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

// Not the value of a class whose number could change, nor a schedule.
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

// None means no limit.
double limit_from(PyObject* object, const char* name) {
  if (object == Py_None) return std::numeric_limits<double>::infinity();
  const double number = number_from(object, name);
  if (!std::isfinite(number) || number < 0.0) {
    raise_value_error({name}, "got " + repr(object) + ", wanted a finite number >= 0 or None");
  }
  return number;
}

// A Python int, or a NumPy one.
double count_from(PyObject* object, const HyperparameterInfo& info) {
  if (is_bool(object) || PyIndex_Check(object) == 0) {
    raise_type_error({info.name}, "got " + type_name(object) + ", wanted an int");
  }
  const double number = number_from(object, info.name);
  if (!(number >= 0.0 && number <= info.most)) {
    raise_value_error({info.name}, "got " + repr(object) + ", wanted an int from 0 to 2**53 - 1");
  }
  return number;
}

double choice_from(PyObject* object, const HyperparameterInfo& info) {
  if (object == Py_None) return 0.0;
  std::string wanted = "None";
  for (std::size_t i = 1; i < info.choices.size(); ++i) {
    if (PyUnicode_Check(object) && PyUnicode_CompareWithASCIIString(object, info.choices[i]) == 0) {
      return static_cast<double>(i);
    }
    wanted += std::string(i + 1 == info.choices.size() ? " or '" : ", '") + info.choices[i] + "'";
  }
  if (!PyUnicode_Check(object)) raise_type_error({info.name}, "got " + type_name(object) + ", wanted " + wanted);
  raise_value_error({info.name}, "got " + repr(object) + ", wanted " + wanted);
}

double value_from(const HyperparameterInfo& info, PyObject* object) {
  switch (info.kind) {
    case Kind::flag:
      return flag_from(object, info.name) ? 1.0 : 0.0;
    case Kind::limit:
      return limit_from(object, info.name);
    case Kind::count:
      return count_from(object, info);
    case Kind::choice:
      return choice_from(object, info);
    default:
      return number_from(object, info.name);
  }
}

py::object params_in(PyObject* dict) {
  const py::object params = find(dict, Keys::get().params);
  if (!params || !PyList_Check(params.ptr())) {
    raise_value_error({"param_groups"}, "wanted a dict per group, with a list of arrays as 'params'");
  }
  return params;
}

// The most steps that a parameter of a group has taken.
std::int64_t most_steps(PyObject* dict, const Group::Origin& origin) {
  const py::object params = params_in(dict);
  const auto count = static_cast<std::size_t>(PyList_GET_SIZE(params.ptr()));
  const auto all = static_cast<std::size_t>(std::max<Py_ssize_t>(PyObject_Length(origin.steps), 0));
  const std::int64_t* counts = counts_of(origin.steps, all);
  if (counts == nullptr || origin.first_param + count > all) {
    raise_value_error({"param_groups"}, "a schedule added or removed a group");
  }
  const std::span<const std::int64_t> own(counts + origin.first_param, count);
  return count == 0 ? 0 : *std::max_element(own.begin(), own.end());
}

// The learning rate of a group: a number, a schedule, or, in PyTorch, a tensor, which its schedulers change in place.
double learning_rate_from(const py::object& value, Naming naming, PyObject* dict, const Group::Origin& origin) {
  if (PyFloat_CheckExact(value.ptr())) return PyFloat_AS_DOUBLE(value.ptr());
  py::object number = value;
  if (naming == Naming::torch) {
    if (py::hasattr(value, "item")) number = value.attr("item")();
  } else if (PyCallable_Check(value.ptr()) != 0) {
    number = value(most_steps(dict, origin));
  }
  return number_from(number.ptr(), "lr");
}

// Every reference is an owned one: what is done with a value may run code that drops it from the dict. Without an
// origin the learning rate is left out, and no schedule is asked.
std::vector<double> values_in(const Rule& rule, Naming naming, PyObject* dict, const Group::Origin* origin) {
  const auto infos = rule.info().hyperparameters;
  std::vector<double> values(infos.size());
  Py_ssize_t known = 0;
  const auto read = [&](std::size_t i) {
    const py::object value = find(dict, rule.key(i));
    if (value) ++known;
    const bool is_optional = infos[i].is_optional || i == rule.initial_value();
    if (!value && !is_optional) raise_value_error({infos[i].name}, "missing from the parameter group");
    if (!value || (i == rule.lr() && origin == nullptr)) {
      values[i] = infos[i].default_value;
    } else if (i == rule.lr()) {
      values[i] = learning_rate_from(value, naming, dict, *origin);
    } else {
      values[i] = value_from(infos[i], value.ptr());
    }
  };
  read(rule.lr());  // first of all: a schedule may run any Python code, even code that changes this group
  for (std::size_t i = 0; i < infos.size(); ++i) {
    if (i != rule.lr()) read(i);
  }
  rule.info().check(values);
  if (naming != Naming::torch) {
    for (PyObject* key : {Keys::get().params, Keys::get().name}) known += find(dict, key) ? 1 : 0;
    if (PyDict_Size(dict) == known) return values;
    const auto keys = py::reinterpret_steal<py::list>(PyDict_Keys(dict));  // comparing them may run code, too
    if (!keys) throw py::error_already_set();
    for (const py::handle key : keys) {
      const bool is_known =
          key.equal(py::handle(Keys::get().params)) || key.equal(py::handle(Keys::get().name)) ||
          std::any_of(infos.begin(), infos.end(), [&](const auto& info) { return key.equal(py::str(info.name)); });
      if (!is_known) raise_value_error({"param_groups"}, "unknown key " + repr(key.ptr()));
    }
  }
  return values;
}

}  // namespace

Rule::Rule(const std::string& name) : info_(nullptr) {
  for (const RuleInfo& info : rule_table()) {
    if (info.name == name) info_ = &info;
  }
  if (info_ == nullptr) throw py::value_error("rule: got '" + name + "', which is in no row of the table");
  for (const HyperparameterInfo& info : info_->hyperparameters) keys_.push_back(interned(info.name));
  for (const StateInfo& state : info_->state) state_keys_[state.operand] = interned(state.name);
  lr_ = static_cast<std::size_t>(place_of(*info_, "lr"));
  clip_norm_ = static_cast<std::size_t>(place_of(*info_, "clip_norm"));
  initial_value_ = static_cast<std::size_t>(place_of(*info_, "initial_accumulator_value"));
}

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

const char* name_of(Nonfinite nonfinite) {
  switch (nonfinite) {
    case Nonfinite::skip:
      return "skip";
    case Nonfinite::raise:
      return "raise";
    default:
      return "propagate";
  }
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

const char* name_of_state(const Rule& rule, Operand operand) {
  for (const StateInfo& state : rule.info().state) {
    if (state.operand == operand) return state.name;
  }
  return "state";
}

void Group::read(const Rule& rule, Naming naming, const py::object& dict, const Origin& origin, double grad_scale) {
  dict_ = dict;
  if (take_remembered(grad_scale)) return;
  seen_.clear();
  is_read_ = false;
  const auto prefixed = [&](const char* message) {
    return origin.is_the_only_one ? message : "param_groups[" + std::to_string(origin.index) + "]: " + message;
  };
  Seen seen;
  try {
    if (!PyDict_Check(dict.ptr())) {
      raise_type_error({"param_groups"}, "got " + type_name(dict.ptr()) + ", wanted a dict per group");
    }
    seen = seen_in(dict.ptr());  // first: a schedule may replace itself by a number, which is for the next step
    values_ = values_in(rule, naming, dict.ptr(), &origin);
  } catch (const py::type_error& error) {
    throw py::type_error(prefixed(error.what()));
  } catch (const py::value_error& error) {
    throw py::value_error(prefixed(error.what()));
  } catch (const std::invalid_argument& error) {
    throw py::value_error(prefixed(error.what()));
  }
  rule_ = &rule;
  params_ = params_in(dict.ptr());
  clip_norm_ = values_[rule.clip_norm()];
  state_needed_ = rule.info().state_needed(values_);
  const Storage storage = rule.info().storage(values_);
  storage_types_ = {storage.state_dtype, storage.master_weights == MasterWeights::split, storage.stochastic_rounding,
                    std::isfinite(storage.ema_decay)};
  stores_as_computed_ = storage_types_.is_ordinary();
  seed_ = storage.seed;
  differs_between_steps_ = rule.info().depends_on_step(values_);
  t_ = 0;
  grad_scale_ = grad_scale;
  seen_ = std::move(seen);
  if (!take_remembered(grad_scale)) seen_.clear();  // another thread changed it meanwhile
  is_read_ = true;
}

void Group::read_again(const Rule& rule, Naming naming, const py::object& dict, const Origin& origin,
                       double grad_scale) {
  if (!is_read_ || grad_scale != grad_scale_ || !PyDict_Check(dict.ptr())) {
    return read(rule, naming, dict, origin, grad_scale);
  }
  dict_ = dict;
  params_ = params_in(dict.ptr());
}

bool Group::take_remembered(double grad_scale) {
  // By bits: 0.0 and -0.0 are equal, but give gradients of different signs.
  const bool same_scale = std::bit_cast<std::uint64_t>(grad_scale) == std::bit_cast<std::uint64_t>(grad_scale_);
  if (seen_.empty() || !same_scale || !PyDict_Check(dict_.ptr())) return false;
  const Locked lock(dict_.ptr());
  if (PyDict_GET_SIZE(dict_.ptr()) != static_cast<Py_ssize_t>(seen_.size())) return false;
  Py_ssize_t position = 0;
  PyObject* key = nullptr;
  PyObject* value = nullptr;
  PyObject* params = nullptr;
  for (const auto& [seen_key, seen_value] : seen_) {
    PyDict_Next(dict_.ptr(), &position, &key, &value);
    if (key != seen_key.ptr() || (value != seen_value.ptr() && seen_value)) return false;
    if (key == params_key_) params = value;
  }
  if (params == nullptr || !PyList_CheckExact(params)) return false;
  if (params != params_.ptr()) params_ = owned(params);
  return true;
}

// Nothing, if to read the dict may run Python code.
Group::Seen Group::seen_in(PyObject* dict) {
  Seen seen;
  const Locked lock(dict);
  Py_ssize_t position = 0;
  PyObject* key = nullptr;
  PyObject* value = nullptr;
  while (PyDict_Next(dict, &position, &key, &value) != 0) {
    const bool is_list = PyList_CheckExact(value) != 0;  // of parameters, or of their names
    if (!PyUnicode_CheckExact(key) || (!is_list && !is_immutable(value))) return {};
    if (PyUnicode_CompareWithASCIIString(key, "params") == 0) params_key_ = key;
    seen.emplace_back(owned(key), is_list ? py::object() : owned(value));
  }
  return seen;
}

void Group::let_go() {
  // Removed first: dropping the last reference may run Python code.
  const py::object dict = std::exchange(dict_, {});
  const py::object params = std::exchange(params_, {});
}

void Group::begin_step(const std::vector<Update>& others) {
  first_of_others_ = others.size();
  if (differs_between_steps_) t_ = 0;  // made anew, for the step that its first parameter is at
}

const Update& Group::make_update_for(std::int64_t t, std::vector<Update>& others) {
  if (t_ != 0) return others.emplace_back(rule_->info().make_update(values_, grad_scale_, t));
  t_ = t;
  return update_ = rule_->info().make_update(values_, grad_scale_, t);
}

void Group::set_clip_scale(double scale, std::vector<Update>& others, std::size_t end) {
  rmsprop::set_clip_scale(update_, scale);
  for (std::size_t i = first_of_others_; i < end; ++i) rmsprop::set_clip_scale(others[i], scale);
}

StateNeeded state_needed_by(const Rule& rule, Naming naming, const py::object& dict) {
  if (!PyDict_Check(dict.ptr())) raise_type_error({"param_groups"}, "wanted a dict per group");
  const std::vector<double> values = values_in(rule, naming, dict.ptr(), nullptr);
  return {rule.info().state_needed(values), rule.info().storage(values).state_dtype};
}

}  // namespace rmsprop::bindings
