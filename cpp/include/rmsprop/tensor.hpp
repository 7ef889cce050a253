/// @file
/// One parameter with everything that its step reads and writes, as plain memory.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "rmsprop/update.hpp"

namespace rmsprop {

/// The types that steps are computed in.
enum class DType : std::uint8_t {
  float32,  ///< IEEE-754 single precision.
  float64   ///< IEEE-754 double precision.
};
/// How many types there are.
inline constexpr int dtype_count = 2;
/// The size of an element, in bytes.
inline constexpr std::int64_t item_size(DType dtype) { return dtype == DType::float32 ? 4 : 8; }

/// The storage format of elements: the compute type, or, for float32, rounded to the nearest of 16 bits.
enum class Packing : std::uint8_t {
  none,      ///< The compute type.
  bfloat16,  ///< The upper half of a float32.
  float16    ///< IEEE-754 half precision.
};
/// How many there are.
inline constexpr int packing_count = 3;
/// The size of an element of this format that is computed in `dtype`, in bytes.
inline constexpr std::int64_t item_size(Packing packing, DType dtype) {
  switch (packing) {
    case Packing::none:
      break;
    case Packing::bfloat16:
    case Packing::float16:
      return 2;
  }
  return item_size(dtype);
}

/// The arrays of one tensor. All have the same shape; only `grad` is never written.
enum Operand : std::uint8_t {
  param,           ///< The weights.
  grad,            ///< Their gradient.
  square_avg,      ///< The average, or Adagrad's sum, of squared gradients.
  grad_avg,        ///< The average gradient of centered RMSprop.
  momentum_buffer  ///< The buffer of momentum.
};
/// Their names, in the order of Operand.
inline constexpr std::array operand_names = {"param", "grad", "square_avg", "grad_avg", "momentum_buffer"};
/// How many operands there are.
inline constexpr int operand_count = static_cast<int>(operand_names.size());

/// Adagrad keeps its sum of squares where RMSprop keeps its average of squares.
inline constexpr Operand sum = square_avg;

/// The state a rule needs, as a bit per Operand: `state_of(rule) >> momentum_buffer & 1`.
unsigned state_of(Rule rule);

/// The placement of the elements of arrays with a common shape. Fill in `ndim`, `shape` and `strides`, then normalize()
/// it.
struct Layout {
  /// NumPy's 64, and one that splits a complex number into its two parts.
  static constexpr int max_dims = 65;
  int ndim = 0;                                                                ///< Dimensions.
  std::array<std::int64_t, max_dims> shape = {};                               ///< Elements along each.
  std::array<std::array<std::int64_t, max_dims>, operand_count> strides = {};  ///< In bytes, of any sign.
  /// One aligned run of elements in the order the layout visits them. Found by normalize().
  std::array<bool, operand_count> dense = {};
};

/// The arrays and the update of one parameter. Owns nothing: what it points to must outlive every step it is passed to.
/// dense_tensor() makes one of contiguous arrays.
struct Tensor {
  std::array<std::byte*, operand_count> data = {};  ///< Null if the rule does not use the operand.
  const Update* update = nullptr;                   ///< Not null in a step.
  const Layout* layout = nullptr;  ///< Null: every operand is one aligned, dense run of `size` elements.
  std::int64_t size = 0;           ///< Elements.
  DType dtype = DType::float32;    ///< The compute type.
  /// The storage format of each operand; that of float64 is always `none`.
  std::array<Packing, operand_count> packing = {};

  /// The storage format of an operand.
  constexpr Packing packing_of(int operand) const { return packing[operand]; }
  /// The size of an element of an operand, in bytes.
  constexpr std::int64_t item_size_of(int operand) const { return item_size(packing[operand], dtype); }
};

/// Puts the dimensions of `layout` (ndim, shape and strides are given) into the order in which the parameter lies in
/// memory, merges those that can be traversed as one, and finds which operands are dense. `tensor` gives the element
/// type and the data pointers; operands it does not have are left out. True if all are dense, so that no layout is
/// needed.
bool normalize(Layout& layout, const Tensor& tensor);

/// The same, but the order of the dimensions stays: elements are visited by their index, whatever their placement in
/// memory.
bool normalize_in_order(Layout& layout, const Tensor& tensor);

}  // namespace rmsprop
