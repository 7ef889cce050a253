// The front end of NumPy's optimizers and of the functions: columns, with an entry for each parameter.
#pragma once

#include <pybind11/pybind11.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "../gather.hpp"
#include "../python.hpp"
#include "gradients.hpp"

namespace rmsprop::bindings {

// columns is a tuple (keys, state, steps):
//   keys   the name of each parameter, in the order of the groups, or None for a single parameter
//   state  a tuple of lists, one for each kind of state of the rule, of arrays or None
//   steps  int64 array: how many steps each parameter has taken; one more where there is a gradient
class Columns : public Source {
 public:
  // Raises TypeError or ValueError if these are no columns.
  static void check(PyObject* columns);

  // grads is null for a check. `more` are columns with state that is missing in the others, or None.
  Columns(const Rule& rule, Naming naming, const std::vector<Group>& groups, const py::tuple& columns,
          const GradientsArgument* grads, const py::object& more);

  std::optional<Missing> collect(Gathered& gathered) override;
  bool is_completed() const override { return more_state_ != nullptr; }
  void commit(const Gathered& gathered, bool was_disturbed) override;
  Label label(std::size_t index, Operand operand) const override;

 private:
  // By operand; empty if the rule has no such state.
  using State = std::array<Items, array_count>;
  State state_in(PyObject* columns) const;
  std::size_t params() const;

  const Rule& rule_;
  Naming naming_;
  const std::vector<Group>& groups_;
  const GradientsArgument* grads_;
  PyObject* keys_;  // the caller keeps the columns alive, and these with them
  PyObject* state_;
  PyObject* steps_;
  std::int64_t* counts_ = nullptr;  // in `steps_`
  PyObject* more_state_ = nullptr;  // of other columns, or null
};

}  // namespace rmsprop::bindings
