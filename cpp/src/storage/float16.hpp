// float16: IEEE-754 half precision. Internal linkage for the reason given in rules/rules.hpp.
#pragma once

#include <cstdint>

#include "storage/bits.hpp"

namespace rmsprop {
namespace {

struct Float16 {
  using Computed = float;
  using Stored = std::uint16_t;

  // The exponent has 5 bits and a bias of 15, where that of float32 is 127: shifted into place it is too small by 112.
  // The multiplication corrects this, also for subnormal numbers, which become normal.
  static float decode(Stored stored) {
    const std::uint32_t magnitude = stored & 0x7FFF;
    const float scaled = bits_as<float>(magnitude << 13) * 0x1p112F;
    const std::uint32_t beyond_finite = magnitude >= 0x7C00 ? 0x7F800000 : 0;
    const auto sign = static_cast<std::uint32_t>(stored & 0x8000) << 16;
    return bits_as<float>(bits_as<std::uint32_t>(scaled) | beyond_finite | sign);
  }

  static Stored encode(float value) {
    const auto bits = bits_as<std::uint32_t>(value);
    const std::uint32_t magnitude = bits & 0x7FFFFFFF;
    const std::uint32_t normal = (magnitude - (112U << 23) + 0xFFF + (magnitude >> 13 & 1)) >> 13;
    // One unit in the last place of 0.5 is the smallest subnormal number, 2^-24: the addition rounds to it.
    const auto subnormal = bits_as<std::uint32_t>(bits_as<float>(magnitude) + 0.5F) - 0x3F000000;
    const std::uint32_t beyond_finite = magnitude > 0x7F800000 ? 0x7E00 : 0x7C00;
    const std::uint32_t finite = magnitude < 0x38800000 ? subnormal : normal;      // 2^-14, the smallest normal number
    const std::uint32_t stored = magnitude < 0x47800000 ? finite : beyond_finite;  // 2^16
    return static_cast<Stored>(stored | (bits >> 16 & 0x8000));
  }
};

}  // namespace
}  // namespace rmsprop
