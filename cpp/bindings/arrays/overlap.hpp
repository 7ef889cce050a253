// The proof that no array written by a step overlaps another array of that step.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "rmsprop/tensor.hpp"

namespace rmsprop::bindings {

// All arrays of a tensor, in their order.
inline constexpr auto operands = [] {
  std::array<Operand, array_count> all = {};
  for (int operand = 0; operand < array_count; ++operand) all[operand] = static_cast<Operand>(operand);
  return all;
}();

// One array of a step.
struct ArrayId {
  std::size_t tensor;
  Operand operand;
};

struct Overlap {
  ArrayId written;
  ArrayId other;
};

// Where an array lies: whole runs of bytes, `spacing` apart.
struct Area {
  std::uintptr_t begin = 0;
  std::uintptr_t end = 0;      // after the last byte; an array without elements has no bytes
  std::uintptr_t spacing = 0;  // the runs begin at multiples of it after `begin`; 0 if there is only one
  std::uintptr_t width = 0;    // of a run
  ArrayId id = {};
};

// The area of an operand of a tensor.
Area area_of(const Tensor& tensor, ArrayId id);

// Keeps the proof: a step with the arrays of the previous step costs nothing, and one with new gradients looks each of
// them up among the arrays that are written. A new proof costs n log n, also for arrays that are interleaved like the
// columns of a matrix. NumPy's solver is called only for pairs that no such rule decides.
class Disjointness {
 public:
  // Discard what is proven of the gradients, or of all arrays.
  void forget_gradients() { gradients_are_proven_ = false; }
  void forget() { written_is_proven_ = gradients_are_proven_ = false; }

  bool is_proven() const { return written_is_proven_ && gradients_are_proven_; }

  // Returns an overlap if there is one; else the arrays of these tensors are proven to be disjoint.
  // `asked` becomes true if NumPy was called, so that Python code may have run.
  std::optional<Overlap> find(std::span<const Tensor> tensors, bool& asked);

 private:
  std::optional<Overlap> find_written(std::span<const Tensor> tensors, bool& asked);
  std::optional<Overlap> find_gradients(std::span<const Tensor> tensors, bool& asked) const;

  bool written_is_proven_ = false;
  bool gradients_are_proven_ = false;
  std::vector<Area> written_;          // by address
  std::vector<std::uintptr_t> reach_;  // of each and all before it, the end
};

}  // namespace rmsprop::bindings
