// Storage formats in and out of a tile: how elements that do not lie side by side, or are stored in 16 bits, reach the
// rules, which know only dense runs of the type they compute in. Internal linkage for the reason given in rules.hpp.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "rmsprop/tensor.hpp"

namespace rmsprop {
namespace {

// Calls visit(first_byte_offset, stride, count) for each straight run of elements among the `n` that follow element
// `begin` in the order of the layout.
template <class Visit>
inline void for_each_run(const Layout& layout, Operand operand, std::int64_t begin, std::int64_t n, Visit visit) {
  const auto& strides = layout.strides[operand];
  const int last = layout.ndim - 1;
  std::int64_t index[Layout::max_dims];
  std::int64_t offset = 0;
  std::int64_t rest = begin;
  for (int d = last; d >= 0; --d) {
    index[d] = rest % layout.shape[d];
    rest /= layout.shape[d];
    offset += index[d] * strides[d];
  }
  while (n > 0) {
    // NOLINTNEXTLINE(clang-analyzer-security.ArrayBound): normalize() leaves at least one dimension
    const std::int64_t left = layout.shape[last] - index[last];
    const std::int64_t count = left < n ? left : n;
    visit(offset, strides[last], count);
    n -= count;
    if (n == 0) return;
    // On to the next run: the last index goes back to zero and carries into the ones before it.
    offset -= index[last] * strides[last];
    index[last] = 0;
    for (int d = last - 1; d >= 0; --d) {
      offset += strides[d];
      if (++index[d] < layout.shape[d]) break;
      offset -= layout.shape[d] * strides[d];
      index[d] = 0;
    }
  }
}

// Element by element through memcpy: the elements of a strided array need not be aligned.
// T is the type of the elements as they are stored.
template <class T>
void gather(T* tile, const Tensor& tensor, Operand operand, std::int64_t begin, std::int64_t n) {
  const std::byte* base = tensor.data[operand];
  for_each_run(*tensor.layout, operand, begin, n, [&](std::int64_t offset, std::int64_t stride, std::int64_t count) {
    const std::byte* from = base + offset;
    for (std::int64_t i = 0; i < count; ++i) std::memcpy(tile + i, from + i * stride, sizeof(T));
    tile += count;
  });
}

template <class T>
void scatter(const T* tile, const Tensor& tensor, Operand operand, std::int64_t begin, std::int64_t n) {
  std::byte* base = tensor.data[operand];
  for_each_run(*tensor.layout, operand, begin, n, [&](std::int64_t offset, std::int64_t stride, std::int64_t count) {
    std::byte* to = base + offset;
    for (std::int64_t i = 0; i < count; ++i) std::memcpy(to + i * stride, tile + i, sizeof(T));
    tile += count;
  });
}

// ---- 16 bits --------------------------------------------------------------------------------------------------------
//
// Decoding is exact. Encoding rounds to the nearest, a tie to the even one, keeps subnormals, and gives an infinity
// what is too large; a NaN stays a NaN. Whole-number operations and exact multiplications only, so that loops vectorise
// and every CPU gives the same bits, whether or not it has instructions for these types.

// std::bit_cast, but with internal linkage like all else here. The built-in function is what the standard libraries of
// GCC 11, Clang 14 and MSVC 19.27 and later have behind it.
template <class To, class From>
inline To bits_as(From from) {
  return __builtin_bit_cast(To, from);
}

struct BFloat16 {
  static float decode(std::uint16_t stored) { return bits_as<float>(static_cast<std::uint32_t>(stored) << 16); }

  static std::uint16_t encode(float value) {
    const auto bits = bits_as<std::uint32_t>(value);
    const std::uint32_t rounded = bits + 0x7FFF + (bits >> 16 & 1);
    const bool is_nan = (bits & 0x7FFFFFFF) > 0x7F800000;
    return static_cast<std::uint16_t>((is_nan ? bits | 0x400000 : rounded) >> 16);
  }
};

struct Float16 {
  // Its exponent has 5 bits, with a bias of 15 where float32 has 127: moved into place it is too small by 112, also
  // that of a subnormal number, which the multiplication makes a normal one.
  static float decode(std::uint16_t stored) {
    const std::uint32_t magnitude = stored & 0x7FFF;
    const float scaled = bits_as<float>(magnitude << 13) * 0x1p112F;
    const std::uint32_t beyond_finite = magnitude >= 0x7C00 ? 0x7F800000 : 0;
    const auto sign = static_cast<std::uint32_t>(stored & 0x8000) << 16;
    return bits_as<float>(bits_as<std::uint32_t>(scaled) | beyond_finite | sign);
  }

  static std::uint16_t encode(float value) {
    const auto bits = bits_as<std::uint32_t>(value);
    const std::uint32_t magnitude = bits & 0x7FFFFFFF;
    const std::uint32_t normal = (magnitude - (112U << 23) + 0xFFF + (magnitude >> 13 & 1)) >> 13;
    // One unit in the last place of 0.5 is the smallest subnormal number, 2^-24: the addition rounds to it.
    const auto subnormal = bits_as<std::uint32_t>(bits_as<float>(magnitude) + 0.5F) - 0x3F000000;
    const std::uint32_t beyond_finite = magnitude > 0x7F800000 ? 0x7E00 : 0x7C00;
    const std::uint32_t finite = magnitude < 0x38800000 ? subnormal : normal;      // 2^-14, the smallest normal number
    const std::uint32_t stored = magnitude < 0x47800000 ? finite : beyond_finite;  // 2^16
    return static_cast<std::uint16_t>(stored | (bits >> 16 & 0x8000));
  }
};

template <class Format>
void decode(float* __restrict tile, const std::uint16_t* __restrict stored, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) tile[i] = Format::decode(stored[i]);
}

template <class Format>
void encode(std::uint16_t* __restrict stored, const float* __restrict tile, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) stored[i] = Format::encode(tile[i]);
}

inline void decode(float* tile, const std::uint16_t* stored, std::int64_t n, Packing packing) {
  (packing == Packing::bfloat16 ? decode<BFloat16> : decode<Float16>)(tile, stored, n);
}

inline void encode(std::uint16_t* stored, const float* tile, std::int64_t n, Packing packing) {
  (packing == Packing::bfloat16 ? encode<BFloat16> : encode<Float16>)(stored, tile, n);
}

}  // namespace
}  // namespace rmsprop
