/// @file
/// One parameter with everything that its step reads and writes, as plain memory.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "rmsprop/storage.hpp"
#include "rmsprop/update.hpp"

namespace rmsprop {

/// The arrays of one tensor: those of a formula, and then those that the average of the weights and formats add. All
/// but the scales have the same shape; only `grad` is never written.
enum Operand : std::uint8_t {
  param,                 ///< The weights.
  grad,                  ///< Their gradient.
  square_avg,            ///< The average, or Adagrad's sum, of squared gradients.
  grad_avg,              ///< The average gradient of centered RMSprop.
  momentum_buffer,       ///< The buffer of momentum.
  ema,                   ///< The average of the weights.
  param_low,             ///< What a parameter of 16 bits lacks, if it is split.
  square_avg_scale,      ///< A byte for each block of a square_avg of 8 bits.
  momentum_buffer_scale  ///< The same for the momentum_buffer.
};
/// Their names, in the order of Operand.
inline constexpr std::array operand_names = {"param",
                                             "grad",
                                             "square_avg",
                                             "grad_avg",
                                             "momentum_buffer",
                                             "ema",
                                             "param_low",
                                             "square_avg_scale",
                                             "momentum_buffer_scale"};
/// How many operands a formula may have: the first ones of Operand.
inline constexpr int operand_count = 5;
/// How many arrays have an element for each of the parameter: the first ones of Operand.
inline constexpr int elementwise_count = 7;
/// How many arrays a tensor may have.
inline constexpr int array_count = static_cast<int>(operand_names.size());

/// Where the scales of an operand are that has a format with scales; 0 for any that can have none.
inline constexpr int scale_of(int operand) {
  if (operand == square_avg) return square_avg_scale;
  return operand == momentum_buffer ? momentum_buffer_scale : 0;
}

/// The storage format of an operand that is state.
inline constexpr Packing state_packing(StateDType state_dtype, int operand) {
  if (operand == param_low) return Packing::lower_half;
  if (state_dtype == StateDType::bfloat16) return Packing::stochastic_bfloat16;
  if (state_dtype == StateDType::computed) return Packing::none;
  if (operand == square_avg) return Packing::unsigned8;
  return operand == momentum_buffer ? Packing::signed8 : Packing::none;
}

/// Adagrad keeps its sum of squares where RMSprop keeps its average of squares.
inline constexpr Operand sum = square_avg;

/// The state a rule needs, as a bit per Operand: `state_of(rule) >> momentum_buffer & 1`.
unsigned state_of(Rule rule);

/// The placement of the elements of arrays with a common shape. Fill in `ndim`, `shape` and `strides`, then normalize()
/// it.
struct Layout {
  /// NumPy's 64, and one that splits a complex number into its two parts.
  static constexpr int max_dims = 65;
  int ndim = 0;                                                                    ///< Dimensions.
  std::array<std::int64_t, max_dims> shape = {};                                   ///< Elements along each.
  std::array<std::array<std::int64_t, max_dims>, elementwise_count> strides = {};  ///< In bytes, of any sign.
  /// One aligned run of elements in the order the layout visits them. Found by normalize().
  std::array<bool, elementwise_count> dense = {};
};

/// The arrays and the update of one parameter. Owns nothing: what it points to must outlive every step it is passed to.
/// dense_tensor() makes one of contiguous arrays.
struct Tensor {
  std::array<std::byte*, array_count> data = {};  ///< Null if the rule does not use the operand.
  const Update* update = nullptr;                 ///< Not null in a step.
  const Layout* layout = nullptr;                 ///< Null: every operand is one aligned, dense run of `size` elements.
  std::int64_t size = 0;                          ///< Elements.
  DType dtype = DType::float32;                   ///< The compute type.
  /// The storage format of each operand; that of float64 is always `none`.
  /// One more than there are, so that they can be compared all at once.
  std::array<Packing, elementwise_count + 1> packing = {};
  std::uint64_t random = 0;  ///< For stochastic rounding: see random_key().

  /// Whether what is stored depends on the index of an element, so that they must be visited in its order.
  constexpr bool is_stochastic() const {
    for (const Packing format : packing) {
      if (rmsprop::is_stochastic(format)) return true;
    }
    return false;
  }
  /// Whether elements have to be decoded and encoded by whole blocks.
  constexpr bool has_blocks() const {
    for (const Packing format : packing) {
      if (has_scales(format)) return true;
    }
    return false;
  }
  /// The storage format of an operand.
  constexpr Packing packing_of(int operand) const { return packing[operand]; }
  /// The size of an element of an operand, in bytes.
  constexpr std::int64_t item_size_of(int operand) const {
    return operand < elementwise_count ? item_size(packing[operand], dtype) : 1;
  }
};

/// Puts the dimensions of `layout` (ndim, shape and strides are given) into the order in which the parameter lies in
/// memory, merges those that can be traversed as one, and finds which operands are dense. If `tensor.is_stochastic()`,
/// the order stays that of the indices. `tensor` gives the element type, the formats and the data pointers; operands it
/// does not have are left out. True if all are dense, so that no layout is needed.
bool normalize(Layout& layout, const Tensor& tensor);

/// The same, but the order of the dimensions stays: elements are visited by their index, whatever their placement in
/// memory.
bool normalize_in_order(Layout& layout, const Tensor& tensor);

}  // namespace rmsprop
