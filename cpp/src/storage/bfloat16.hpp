// bfloat16: the upper half of a float32. Internal linkage for the reason given in rules/rules.hpp.
#pragma once

#include <cstdint>

#include "storage/bits.hpp"

namespace rmsprop {
namespace {

struct BFloat16 {
  using Computed = float;
  using Stored = std::uint16_t;

  static float decode(Stored stored) { return bits_as<float>(static_cast<std::uint32_t>(stored) << 16); }

  static Stored encode(float value) {
    const auto bits = bits_as<std::uint32_t>(value);
    const std::uint32_t rounded = bits + 0x7FFF + (bits >> 16 & 1);
    const bool is_nan = (bits & 0x7FFFFFFF) > 0x7F800000;
    return static_cast<Stored>((is_nan ? bits | 0x400000 : rounded) >> 16);
  }
};

}  // namespace
}  // namespace rmsprop
