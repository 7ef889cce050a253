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
//   keys   what each parameter is called, in the order of the groups, or None for a single parameter
//   state  a tuple of lists, one for each kind of state of the rule, of arrays or None
//   steps  int64 array: how many steps each parameter has taken; one more where there is a gradient
class Columns : public Source {
 public:
  // The keys of columns, a list or None. Raises TypeError or ValueError if these are no columns.
  static py::object keys_in(const py::tuple& columns);

  // grads is null to check. `allocate` returns columns that have the state that is missing, or is None.
  Columns(const Rule& rule, Naming naming, const std::vector<Group>& groups, const py::tuple& columns,
          const GradientsArgument* grads, const py::object& allocate);

  std::optional<Missing> collect(Gathered& gathered) override;
  void complete() override;
  bool resolve(std::span<const std::size_t> /*indices*/) override { return false; }
  void commit(const Gathered& gathered, bool was_disturbed) override;
  Label label(std::size_t index, Operand operand) const override;

 private:
  Items state_column(const py::object& state, std::size_t kind, std::size_t params) const;

  const Rule& rule_;
  Naming naming_;
  const std::vector<Group>& groups_;
  const GradientsArgument* grads_;
  py::object allocate_;
  py::object keys_, state_, steps_;
  py::object completed_state_;    // null until it was asked for
  std::vector<Items> completed_;  // its columns
};

// How many steps the parameters [first, first + count) have taken at most: what a schedule is asked with.
std::int64_t most_steps(const py::object& steps, std::size_t first, std::size_t count);

}  // namespace rmsprop::bindings
