// Gradients and state of an optimizer of PyTorch, where PyTorch keeps them: `param.grad` and `state[param]`, a dict.
#pragma once

#include <pybind11/pybind11.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <vector>

#include "hyperparameters.hpp"
#include "rmsprop/tensor.hpp"

namespace rmsprop::bindings {

namespace py = pybind11;

// The kinds of state there are.
inline constexpr int state_count = operand_count - square_avg;

// Thrown for a gradient that is stored negated or conjugated.
struct LazyGradient : std::exception {
  explicit LazyGradient(std::size_t i) : index(i) {}
  std::size_t index;
};

// Holds what it has gathered, so that it stays alive whatever becomes of the containers it was in. The memory for that
// serves again in the next step.
class TensorState {
 public:
  explicit TensorState(Algorithm algorithm) : algorithm_(algorithm) {}

  // Collects an entry for each parameter of the groups. This may run Python code.
  // state: a dict from parameters to dicts with `step` and arrays under PyTorch's names.
  // needed: for each group, the state that its hyperparameters need, as bits by operand.
  void gather(const py::list& groups, const py::dict& state, const std::vector<unsigned>& needed);

  // Lets go of everything.
  void clear();

  // Puts a gradient in the place of its lazily negated or conjugated self, elsewhere in memory. Runs PyTorch's code.
  void resolve_gradient(std::size_t index);

  std::size_t size() const { return grads_.size(); }
  PyObject* const* params() const { return params_.data(); }                  // as they can be looked at
  PyObject* const* grads() const { return grads_.data(); }                    // None to skip a parameter
  PyObject* const* entries(int kind) const { return entries_[kind].data(); }  // None where there is nothing
  std::int64_t* steps() { return steps_.data(); }

  // These parameters, as they were given.
  py::list originals(const std::vector<std::size_t>& indices) const;

  // Writes steps() back into the tensors of these parameters.
  void write_steps(const std::vector<std::size_t>& indices) const;

 private:
  // A tensor with one number, where a step count is kept.
  struct Count {
    enum Kind : std::uint8_t { float32, float64, int64 };
    std::byte* data = nullptr;
    Kind kind = float64;
  };

  void add(const py::object& param, const py::object& entry, unsigned needed);
  PyObject* hold(py::object object);
  void add_step(const py::object& entry);

  Algorithm algorithm_;
  std::vector<py::object> originals_;
  std::vector<PyObject*> params_;
  std::vector<PyObject*> grads_;
  std::array<std::vector<PyObject*>, state_count> entries_;
  std::vector<Count> counts_;
  std::vector<std::int64_t> steps_;
  std::vector<py::object> held_;
};

}  // namespace rmsprop::bindings
