// The table of storage formats. Internal linkage for the reason given in rules/rules.hpp.
//
// A codec has the type it is Computed in, the type it is Stored as, and both directions for one element. Decoding is
// exact. Encoding rounds to nearest, ties to even, keeps subnormals, and makes an infinity of what is too large; a NaN
// stays a NaN. It uses only integer operations and exact multiplications, so that loops vectorise and every CPU gives
// the same bits, whether or not it has instructions for these types.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "rmsprop/tensor.hpp"
#include "storage/bfloat16.hpp"
#include "storage/float16.hpp"

namespace rmsprop {
namespace {

// From dense, aligned memory into a tile of the compute type, and back. Null if they have the same type.
template <class T>
struct Format {
  void (*decode)(T* tile, const std::byte* stored, std::int64_t n);
  void (*encode)(std::byte* stored, const T* tile, std::int64_t n);
};

template <class Codec, class T>
void decode(T* __restrict tile, const std::byte* __restrict bytes, std::int64_t n) {
  const auto* stored = reinterpret_cast<const Codec::Stored*>(bytes);
  for (std::int64_t i = 0; i < n; ++i) tile[i] = Codec::decode(stored[i]);
}

template <class Codec, class T>
void encode(std::byte* __restrict bytes, const T* __restrict tile, std::int64_t n) {
  auto* stored = reinterpret_cast<Codec::Stored*>(bytes);
  for (std::int64_t i = 0; i < n; ++i) stored[i] = Codec::encode(tile[i]);
}

// A tensor only has codecs that compute in its own compute type.
template <class Codec, class T>
constexpr Format<T> format_of() {
  if constexpr (std::is_same_v<typename Codec::Computed, T>) return {decode<Codec, T>, encode<Codec, T>};
  return {};
}

// In the order of enum Packing.
template <class T>
constexpr std::array<Format<T>, packing_count> formats = {Format<T>{}, format_of<BFloat16, T>(),
                                                          format_of<Float16, T>()};

}  // namespace
}  // namespace rmsprop
