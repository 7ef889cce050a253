/// @file
/// Storage formats: how the numbers of an array are kept in memory.
#pragma once

#include <cstdint>

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

/// The storage format of elements: the compute type, or, for float32, fewer bits.
///
/// Stochastic rounding rounds up with the probability that makes it exact in the mean. It depends on `Tensor::random`,
/// the operand and the index of the element alone, so elements are visited in the order of their indices: see
/// normalize_in_order().
enum class Packing : std::uint8_t {
  none,                 ///< The compute type.
  bfloat16,             ///< The upper half of a float32, rounded to nearest.
  float16,              ///< IEEE-754 half precision, rounded to nearest.
  stochastic_bfloat16,  ///< The upper half of a float32, rounded stochastically.
  unsigned8,            ///< 5 bits of exponent, 3 of mantissa, scaled by block, rounded stochastically; not negative.
  signed8,              ///< A sign, 4 bits of exponent, 3 of mantissa, scaled by block, rounded stochastically.
  split,                ///< bfloat16, nearest, and the rest of the float32 in an array of its own: of parameters alone.
  lower_half            ///< That rest, 16 bits with a sign.
};
/// How many there are.
inline constexpr int packing_count = 8;
/// The size of an element of this format that is computed in `dtype`, in bytes.
inline constexpr std::int64_t item_size(Packing packing, DType dtype) {
  switch (packing) {
    case Packing::none:
      break;
    case Packing::bfloat16:
    case Packing::float16:
    case Packing::stochastic_bfloat16:
    case Packing::split:
    case Packing::lower_half:
      return 2;
    case Packing::unsigned8:
    case Packing::signed8:
      return 1;
  }
  return item_size(dtype);
}

/// Whether each block of elements has a scale.
inline constexpr bool has_scales(Packing packing) {
  return packing == Packing::unsigned8 || packing == Packing::signed8;
}
/// Whether what is stored depends on `Tensor::random` and on the index of an element.
inline constexpr bool is_stochastic(Packing packing) {
  return packing == Packing::stochastic_bfloat16 || has_scales(packing);
}

/// Elements that have one scale in common, counted by their index; the last block may be shorter.
inline constexpr std::int64_t block_size = 256;
/// How many blocks, and so scales, there are.
inline constexpr std::int64_t blocks_of(std::int64_t size) { return (size + block_size - 1) / block_size; }

/// The `Tensor::random` of one parameter in one step: a hash of all three.
std::uint64_t random_key(std::uint64_t seed, std::int64_t step, std::int64_t parameter);

}  // namespace rmsprop
