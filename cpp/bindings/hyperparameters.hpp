// From a parameter group, a Python dict under PyTorch's names, to hyperparameters that have passed every check.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <functional>
#include <limits>
#include <utility>
#include <variant>
#include <vector>

#include "rmsprop/hyperparameters.hpp"

namespace rmsprop::bindings {

namespace py = pybind11;

using Hyperparameters = std::variant<RMSprop, Adagrad>;

enum class Algorithm : std::uint8_t { rmsprop, adagrad };

// Whose groups they are. Ours hold hyperparameters and nothing else. PyTorch's also hold what others keep there, such
// as schedulers, and their learning rate may be a tensor.
enum class Dialect : std::uint8_t { own, torch };

// The hyperparameters of one group, from step to step.
class GroupHyperparameters {
 public:
  // Reads and checks them all. Raises TypeError or ValueError that names the one at fault, and the group too if its
  // index is not negative. If `lr` is callable it is called with steps_taken().
  //
  // A group that holds the very objects it held at the last call is not read again: numbers and flags never change,
  // they are only replaced by others. Returns whether anything was read.
  bool read(Algorithm algorithm, Dialect dialect, PyObject* group, int group_index, double grad_scale,
            const std::function<std::int64_t()>& steps_taken);

  const Hyperparameters& get() const { return value_; }

  // Infinity where the group does not clip.
  double clip_norm() const { return clip_norm_; }

 private:
  bool is_remembered(PyObject* group, double grad_scale) const;
  void remember(PyObject* group, double grad_scale);

  Hyperparameters value_;
  double clip_norm_ = std::numeric_limits<double>::infinity();
  // Keys and values, null for a list, which no hyperparameter is. Empty if they must be read at each step.
  std::vector<std::pair<py::object, py::object>> seen_;
  double grad_scale_ = 1.0;
};

// A number as Python's float() would have it, but no bool, complex or string. Raises TypeError or ValueError.
double number_from(PyObject* object, const char* name);

// What becomes of a step whose gradients are not all finite.
enum class Nonfinite : std::uint8_t { propagate, skip, raise };
Nonfinite nonfinite_from(PyObject* object);

// None (0, meaning the default of the process) or a number of threads.
int num_threads_from(PyObject* object);

}  // namespace rmsprop::bindings
