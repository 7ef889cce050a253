// The first phase of a step: its arguments, as objects. Their memory is first accessed in the next phase (plan.hpp).
#pragma once

#include <pybind11/pybind11.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "groups.hpp"
#include "messages.hpp"
#include "rmsprop/tensor.hpp"

namespace rmsprop::bindings {

// The objects of one parameter, by operand; null where there is none.
using Objects = std::array<PyObject*, array_count>;

// The parameters of a step, in the order of the groups. The memory is reused in the next step.
class Gathered {
 public:
  struct Param {
    std::size_t index;       // among all parameters, also those that the step leaves out
    std::int64_t next_step;  // the number of this step, from 1
  };

  Gathered() = default;
  ~Gathered() { clear(); }
  Gathered(const Gathered&) = delete;
  Gathered& operator=(const Gathered&) = delete;

  void clear();

  // To be called before more parameters are added than there were ever before.
  void make_room(std::size_t params);
  void add(const Param& param, const Objects& objects) {
    params_[size_] = param;
    objects_[size_++] = objects;
    if (!holds_) return;
    for (PyObject* object : objects) Py_XINCREF(object);
  }
  void end_group() { ends_.push_back(size_); }

  std::size_t size() const { return size_; }
  const Param& param(std::size_t i) const { return params_[i]; }
  std::span<const Objects> objects() const { return {objects_.data(), size_}; }
  std::size_t end_of(std::size_t group) const { return ends_[group]; }

  // Keeps all objects alive until the next clear(). Before this is called, no Python code may run, and the GIL must not
  // be released. Where there is no GIL, objects are held from the start.
  void hold();

 private:
#if defined(Py_GIL_DISABLED)
  static constexpr bool holds_from_the_start = true;
#else
  static constexpr bool holds_from_the_start = false;
#endif

  std::size_t size_ = 0;
  std::vector<Param> params_;  // these two may have more room
  std::vector<Objects> objects_;
  std::vector<std::size_t> ends_;  // of each group
  bool holds_ = holds_from_the_start;
};

// A front end: where parameters, gradients and state come from, and where what a step makes of them goes. When it has
// been made, it owns every container and every object whose look-up may run Python code, and no gradient is stored
// negated or conjugated.
class Source {
 public:
  // Missing state that the hyperparameters need.
  struct Missing {
    std::size_t index;
    Operand operand;
  };

  virtual ~Source() = default;
  Source() = default;
  Source(const Source&) = delete;
  Source& operator=(const Source&) = delete;

  // Collects the objects of all parameters that have a gradient, or, without gradients, of all, and whatever state they
  // have. Runs no Python code. Stops at state that is missing, unless there are no gradients.
  virtual std::optional<Missing> collect(Gathered& gathered) = 0;

  // The number of the first parameter, which stochastic rounding depends on: not 0 if there are others that the source
  // does not have.
  virtual std::int64_t first_number() const { return 0; }

  // Whether missing state has been passed to it, which Python makes between two calls.
  virtual bool is_completed() const = 0;

  // After the step: writes back step counts and new state. What may run Python code comes last. Other code may have run
  // since collect() if the step was disturbed.
  virtual void commit(const Gathered& gathered, bool was_disturbed) = 0;

  // The name of an array in messages. Runs Python code.
  virtual Label label(std::size_t index, Operand operand) const = 0;
};

}  // namespace rmsprop::bindings
