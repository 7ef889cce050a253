// A float32 in two halves: a bfloat16 that is a number by itself, and what it lacks. Internal linkage for the reason
// given in rules/rules.hpp.
#pragma once

#include <cstdint>

#include "storage/bits.hpp"

namespace rmsprop {
namespace {

struct Split {
  using Computed = float;
  using Stored = std::uint16_t;
  struct Halves {
    std::uint16_t upper;
    std::int16_t lower;
  };

  static float decode(Stored upper, std::int16_t lower) {
    return bits_as<float>((static_cast<std::uint32_t>(upper) << 16) + static_cast<std::uint32_t>(lower));
  }

  // To nearest, ties away from zero, so that the difference has 16 bits. A NaN stays one in its upper half.
  static Halves encode(float value) {
    const auto bits = bits_as<std::uint32_t>(value);
    const bool is_nan = (bits & 0x7FFFFFFF) > 0x7F800000;
    const std::uint32_t upper = (is_nan ? bits | 0x400000 : bits + 0x8000) >> 16;
    const std::uint32_t lower = is_nan ? 0 : bits - (upper << 16);
    return {static_cast<std::uint16_t>(upper), static_cast<std::int16_t>(static_cast<std::uint16_t>(lower))};
  }
};

}  // namespace
}  // namespace rmsprop
