// bfloat16: the upper half of a float32, rounded to nearest or stochastically. Internal linkage for the reason given in
// rules/rules.hpp.
#pragma once

#include <cstdint>

#include "storage/bits.hpp"

namespace rmsprop {
namespace {

// A NaN stays one whatever is added to its bits.
inline std::uint16_t upper_half(std::uint32_t bits, std::uint32_t rounding) {
  const bool is_nan = (bits & 0x7FFFFFFF) > 0x7F800000;
  return static_cast<std::uint16_t>((is_nan ? bits | 0x400000 : bits + rounding) >> 16);
}

struct BFloat16 {
  using Computed = float;
  using Stored = std::uint16_t;

  static float decode(Stored stored) { return bits_as<float>(static_cast<std::uint32_t>(stored) << 16); }

  static Stored encode(float value) {
    const auto bits = bits_as<std::uint32_t>(value);
    return upper_half(bits, 0x7FFF + (bits >> 16 & 1));
  }
};

struct StochasticBFloat16 {
  using Computed = float;
  using Stored = std::uint16_t;

  static float decode(Stored stored) { return BFloat16::decode(stored); }
  static Stored encode(float value, std::uint32_t random) { return upper_half(bits_as<std::uint32_t>(value), random); }
};

}  // namespace
}  // namespace rmsprop
