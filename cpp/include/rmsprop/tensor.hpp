// One parameter with everything that its step reads and writes, as plain memory.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "rmsprop/update.hpp"

namespace rmsprop {

// The types that steps are computed in.
enum class DType : std::uint8_t { float32, float64 };
inline constexpr int dtype_count = 2;
inline constexpr std::int64_t item_size(DType dtype) { return dtype == DType::float32 ? 4 : 8; }

// How elements are stored: as the type that is computed in, or, for float32, rounded to the nearest of 16 bits.
enum class Packing : std::uint8_t { none, bfloat16, float16 };

// The arrays of one tensor. All have the same shape; only `grad` is never written.
enum Operand : std::uint8_t { param, grad, square_avg, grad_avg, momentum_buffer };
inline constexpr int operand_count = 5;

// Adagrad keeps its sum of squares where RMSprop keeps its average of squares.
inline constexpr Operand sum = square_avg;

// The state a rule needs, as a bit per Operand.
unsigned state_of(Rule rule);

// Where the elements of arrays with a common shape lie. Made by make_layout.
struct Layout {
  static constexpr int max_dims = 65;  // NumPy's 64, and one that splits a complex number into its two parts
  int ndim = 0;
  std::array<std::int64_t, max_dims> shape = {};
  std::array<std::array<std::int64_t, max_dims>, operand_count> strides = {};  // in bytes
  std::array<bool, operand_count> dense = {};  // one aligned run of elements in the order the layout visits them
};

struct Tensor {
  std::array<std::byte*, operand_count> data = {};  // null where the rule has no use for an operand
  const Update* update = nullptr;
  const Layout* layout = nullptr;  // null: every operand is one aligned, dense run of `size` elements
  std::int64_t size = 0;           // elements
  DType dtype = DType::float32;
  std::array<Packing, 2> packing = {};  // of param and of grad; the state has the type that is computed in

  constexpr Packing packing_of(int operand) const { return operand <= grad ? packing[operand] : Packing::none; }
  constexpr std::int64_t item_size_of(int operand) const {
    return packing_of(operand) == Packing::none ? item_size(dtype) : 2;
  }
};

// Puts the dimensions of `layout` (ndim, shape and strides are given) into the order in which the parameter lies in
// memory, merges those that can be walked as one, and finds which operands are dense. `tensor` gives the element type
// and the data pointers; operands it does not have are left out. True if all are dense, so that no layout is needed.
bool normalize(Layout& layout, const Tensor& tensor);

// The same, but the order of the dimensions stays: elements are visited by their index, wherever they lie in memory.
bool normalize_in_order(Layout& layout, const Tensor& tensor);

}  // namespace rmsprop
