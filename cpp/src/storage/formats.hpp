// The table of storage formats. Internal linkage for the reason given in rules/rules.hpp.
//
// A codec has the type it is Computed in, the type it is Stored as, and both directions for one element. Decoding is
// exact. Encoding keeps subnormals, makes an infinity of what is too large, and rounds to nearest, ties to even, or
// with random bits; a NaN stays a NaN. It uses only integer operations and exact multiplications, so that loops
// vectorise and every CPU gives the same bits, whether or not it has instructions for these types.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "rmsprop/storage.hpp"
#include "storage/bfloat16.hpp"
#include "storage/eight_bits.hpp"
#include "storage/float16.hpp"
#include "storage/split.hpp"

namespace rmsprop {
namespace {

// What some formats need besides the elements.
struct Beside {
  std::uint8_t* scales;         // of the blocks, the first of which begins with the first element
  const std::uint32_t* random;  // a hash for each element
  int shift;                    // where in the hashes the 16 bits of this operand are
  std::int16_t* low;            // what the halves of split elements lack
};

// From dense, aligned memory into a tile of the compute type, and back. Null if they have the same type.
template <class T>
struct Format {
  void (*decode)(T* tile, const std::byte* stored, std::int64_t n, const Beside& beside);
  void (*encode)(std::byte* stored, const T* tile, std::int64_t n, const Beside& beside);
};

template <class Codec, class T>
void decode(T* __restrict tile, const std::byte* __restrict bytes, std::int64_t n, const Beside& /*beside*/) {
  const auto* stored = reinterpret_cast<const Codec::Stored*>(bytes);
  for (std::int64_t i = 0; i < n; ++i) tile[i] = Codec::decode(stored[i]);
}

template <class Codec, class T>
void encode(std::byte* __restrict bytes, const T* __restrict tile, std::int64_t n, const Beside& /*beside*/) {
  auto* stored = reinterpret_cast<Codec::Stored*>(bytes);
  for (std::int64_t i = 0; i < n; ++i) stored[i] = Codec::encode(tile[i]);
}

template <class Codec, class T>
void encode_stochastically(std::byte* __restrict bytes, const T* __restrict tile, std::int64_t n,
                           const Beside& beside) {
  auto* stored = reinterpret_cast<Codec::Stored*>(bytes);
  const std::uint32_t* __restrict random = beside.random;
  const int shift = beside.shift;
  for (std::int64_t i = 0; i < n; ++i) stored[i] = Codec::encode(tile[i], random[i] >> shift & 0xFFFF);
}

template <class Codec, class T>
void decode_blocks(T* __restrict tile, const std::byte* __restrict bytes, std::int64_t n, const Beside& beside) {
  const auto* stored = reinterpret_cast<const Codec::Stored*>(bytes);
  for (std::int64_t begin = 0; begin < n; begin += block_size) {
    const std::int32_t offset = Codec::Blocks::offset(beside.scales[begin / block_size]);
    const std::int64_t end = n - begin < block_size ? n : begin + block_size;
    for (std::int64_t i = begin; i < end; ++i) tile[i] = Codec::decode(stored[i], offset);
  }
}

template <class Codec, class T>
void encode_blocks(std::byte* __restrict bytes, const T* __restrict tile, std::int64_t n, const Beside& beside) {
  auto* stored = reinterpret_cast<Codec::Stored*>(bytes);
  const std::uint32_t* __restrict random = beside.random;
  const int shift = beside.shift;
  for (std::int64_t begin = 0; begin < n; begin += block_size) {
    const std::int64_t end = n - begin < block_size ? n : begin + block_size;
    const std::uint8_t scale = Codec::Blocks::scale_for(tile + begin, end - begin);
    const std::int32_t offset = Codec::Blocks::offset(scale);
    beside.scales[begin / block_size] = scale;
    for (std::int64_t i = begin; i < end; ++i) {
      stored[i] = Codec::encode(tile[i], offset, random[i] >> shift & 0xFFFF);
    }
  }
}

template <class Codec, class T>
void decode_halves(T* __restrict tile, const std::byte* __restrict bytes, std::int64_t n, const Beside& beside) {
  const auto* stored = reinterpret_cast<const Codec::Stored*>(bytes);
  const std::int16_t* __restrict low = beside.low;
  for (std::int64_t i = 0; i < n; ++i) tile[i] = Codec::decode(stored[i], low[i]);
}

template <class Codec, class T>
void encode_halves(std::byte* __restrict bytes, const T* __restrict tile, std::int64_t n, const Beside& beside) {
  auto* stored = reinterpret_cast<Codec::Stored*>(bytes);
  std::int16_t* __restrict low = beside.low;
  for (std::int64_t i = 0; i < n; ++i) {
    const auto [upper, lower] = Codec::encode(tile[i]);
    stored[i] = upper;
    low[i] = lower;
  }
}

// A tensor only has codecs that compute in its own compute type.
template <class T, Packing packing>
constexpr Format<T> format_of() {
  if constexpr (std::is_same_v<T, float>) {
    switch (packing) {
      case Packing::none:
      case Packing::lower_half:
        break;
      case Packing::bfloat16:
        return {decode<BFloat16, T>, encode<BFloat16, T>};
      case Packing::float16:
        return {decode<Float16, T>, encode<Float16, T>};
      case Packing::stochastic_bfloat16:
        return {decode<StochasticBFloat16, T>, encode_stochastically<StochasticBFloat16, T>};
      case Packing::unsigned8:
        return {decode_blocks<Unsigned8, T>, encode_blocks<Unsigned8, T>};
      case Packing::signed8:
        return {decode_blocks<Signed8, T>, encode_blocks<Signed8, T>};
      case Packing::split:
        return {decode_halves<Split, T>, encode_halves<Split, T>};
    }
  }
  return {};
}

// In the order of enum Packing.
template <class T>
constexpr std::array<Format<T>, packing_count> formats = {
    format_of<T, Packing::none>(),      format_of<T, Packing::bfloat16>(),
    format_of<T, Packing::float16>(),   format_of<T, Packing::stochastic_bfloat16>(),
    format_of<T, Packing::unsigned8>(), format_of<T, Packing::signed8>(),
    format_of<T, Packing::split>(),     format_of<T, Packing::lower_half>()};

}  // namespace
}  // namespace rmsprop
