// The front end of PyTorch's optimizers: gradients in `param.grad` and state in `state[param]`, a dict.
#pragma once

#include <pybind11/pybind11.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "../gather.hpp"
#include "../python.hpp"

namespace rmsprop::bindings {

// What the front end holds of each parameter. The memory is reused in the next step.
class TensorsMemory {
 private:
  friend class Tensors;

  // A tensor with one number, where a step count is kept.
  struct Count {
    enum Kind : std::uint8_t { none, float32, float64, int64 };
    std::byte* data = nullptr;
    Kind kind = none;
  };
  struct Entry {
    py::object param;     // as it was given
    py::object dict;      // its state
    py::object viewable;  // in a form that look() accepts: itself, or a capsule
    py::object grad;
    py::object step;
    std::array<py::object, array_count> state;
    Count count;  // where `step` has it; valid until Python code runs
  };

  std::vector<Entry> entries_;
  std::vector<std::size_t> ends_;  // of each group
};

class Tensors : public Source {
 public:
  // state: the optimizer's, a dict from parameters to dicts with `step` and arrays under PyTorch's names.
  // more: a dict of complete entries that replace these when the step is taken, or None.
  // on_written: is called with a list of the parameters that were written, or is None.
  Tensors(const Rule& rule, const std::vector<Group>& groups, const py::dict& state, bool with_gradients,
          const py::object& more, const py::object& on_written, TensorsMemory& memory, std::int64_t first_number);
  ~Tensors() override;

  std::optional<Missing> collect(Gathered& gathered) override;
  std::int64_t first_number() const override { return first_number_; }
  bool is_completed() const override { return !more_.is_none(); }
  void commit(const Gathered& gathered, bool was_disturbed) override;
  Label label(std::size_t index, Operand operand) const override;

 private:
  using Count = TensorsMemory::Count;
  using Entry = TensorsMemory::Entry;

  void gather(const py::object& state);
  void look_up(const Group& group, Entry& entry) const;
  std::int64_t steps_taken(std::size_t index, Gathered& gathered);
  static Count count_of(const Entry& entry);
  static std::optional<std::int64_t> value_of(const Count& count);
  static void write(const Count& count, std::int64_t steps);

  const Rule& rule_;
  const std::vector<Group>& groups_;
  bool with_gradients_;
  const py::dict& state_;
  const py::object& more_;
  const py::object& on_written_;
  TensorsMemory& memory_;
  std::int64_t first_number_;
  py::list written_;  // the parameters that the step writes; made before it, when memory may still be refused
};

}  // namespace rmsprop::bindings
