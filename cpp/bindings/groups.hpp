// From parameter groups, Python dicts under PyTorch's names, to updates: hyperparameters that have passed every check.
#pragma once

#include <pybind11/pybind11.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "arrays/views.hpp"
#include "python.hpp"
#include "rmsprop/rule_table.hpp"

namespace rmsprop::bindings {

// The caller, which determines the names of arguments in messages: an optimizer has `params` and `grads`, a function
// `param` and `grad`, and an optimizer of PyTorch `params` with a `.grad` each. PyTorch's groups also have entries of
// other code, such as schedulers, and their learning rate may be a tensor.
enum class Naming : std::uint8_t { optimizer, function, torch };

// A row of the table of rules, with what is looked up in it at each step.
class Rule {
 public:
  explicit Rule(const std::string& name);

  const RuleInfo& info() const { return *info_; }
  PyObject* key(std::size_t hyperparameter) const { return keys_[hyperparameter]; }
  PyObject* state_key(Operand operand) const { return state_keys_[operand]; }
  std::size_t lr() const { return lr_; }
  std::size_t clip_norm() const { return clip_norm_; }
  std::size_t initial_value() const { return initial_value_; }

 private:
  const RuleInfo* info_;
  std::vector<PyObject*> keys_;  // interned, and alive until the process ends
  std::array<PyObject*, array_count> state_keys_ = {};
  std::size_t lr_, clip_norm_, initial_value_;
};

// A rule's name for the state in this place of a tensor.
const char* name_of_state(const Rule& rule, Operand operand);

// One parameter group, from step to step.
class Group {
 public:
  // Where a dict of hyperparameters comes from.
  struct Origin {
    std::size_t index;        // of the group
    bool is_the_only_one;     // so that messages need not name it
    std::size_t first_param;  // among those of all groups
    PyObject* steps;          // int64 array: how many steps each parameter has taken; null where there are no schedules
  };

  // Reads and checks all hyperparameters of a dict, and takes its list of parameters. Raises TypeError or ValueError
  // that names what is at fault. If `lr` is callable it is called with the most steps that a parameter of the group has
  // taken. May run Python code.
  //
  // A dict that holds the very objects it held before the last call is not read again: numbers and flags never change,
  // they are only replaced by others.
  void read(const Rule& rule, Naming naming, const py::object& dict, const Origin& origin, double grad_scale);

  // The same, but with the hyperparameters of the last call, if that was successful: no schedule is asked twice.
  void read_again(const Rule& rule, Naming naming, const py::object& dict, const Origin& origin, double grad_scale);

  // Releases the dict and its parameters, but keeps hyperparameters.
  void let_go();

  const py::object& dict() const { return dict_; }
  const py::object& params() const { return params_; }  // a list

  // Infinity if the group does not clip.
  double clip_norm() const { return clip_norm_; }

  // How state is stored, and the random bits of a parameter's step.
  const StorageTypes& storage_types() const { return storage_types_; }
  bool stores_as_computed() const { return stores_as_computed_; }
  std::uint64_t random(std::int64_t t, std::int64_t parameter) const { return random_key(seed_, t, parameter); }

  // As bits by operand.
  unsigned state_needed() const { return state_needed_; }

  // Parameters share an update if it does not depend on the step or they have taken the same number of steps. Others
  // get one in `others`, which must not grow beyond its capacity.
  void begin_step(const std::vector<Update>& others);
  const Update& update_for(std::int64_t t, std::vector<Update>& others) {
    return t_ != 0 && (t_ == t || !differs_between_steps_) ? update_ : make_update_for(t, others);
  }
  bool differs_between_steps() const { return differs_between_steps_; }

  // Scales the gradients of all updates of this group: its own, and those in `others` from `end` down to its first.
  void set_clip_scale(double scale, std::vector<Update>& others, std::size_t end);
  std::size_t first_of_others() const { return first_of_others_; }

 private:
  using Values = std::vector<double>;
  using Seen = std::vector<std::pair<py::object, py::object>>;

  const Update& make_update_for(std::int64_t t, std::vector<Update>& others);
  bool take_remembered(double grad_scale);
  Seen seen_in(PyObject* dict);

  const Rule* rule_ = nullptr;
  bool is_read_ = false;
  py::object dict_;
  py::object params_;
  Values values_;
  double grad_scale_ = 1.0;
  double clip_norm_ = std::numeric_limits<double>::infinity();
  unsigned state_needed_ = 0;
  StorageTypes storage_types_;
  bool stores_as_computed_ = true;
  std::uint64_t seed_ = 0;
  bool differs_between_steps_ = false;
  Update update_ = {};  // made for step `t_`
  std::int64_t t_ = 0;  // 0 if none was made yet
  std::size_t first_of_others_ = 0;
  // Keys and values of the dict; a value is null for a list, which no hyperparameter is. Empty if they must be read at
  // each step.
  Seen seen_;
  PyObject* params_key_ = nullptr;  // the one of `params` in it
};

// The state that the hyperparameters of a group need, as bits by operand, and how it is stored. The learning rate is
// not read.
struct StateNeeded {
  unsigned operands;
  StateDType state_dtype;
};
StateNeeded state_needed_by(const Rule& rule, Naming naming, const py::object& dict);

// A number that Python's float() accepts, but no bool, complex or string. Raises TypeError or ValueError.
double number_from(PyObject* object, const char* name);

// None (0, meaning the default of the process) or a number of threads.
int num_threads_from(PyObject* object);

// What a step does if a gradient is not finite.
enum class Nonfinite : std::uint8_t { propagate, skip, raise };
Nonfinite nonfinite_from(PyObject* object);
const char* name_of(Nonfinite nonfinite);

}  // namespace rmsprop::bindings
