// 8 bits with a scale for each block: floating-point numbers whose exponents count from the scale. Internal linkage for
// the reason given in rules/rules.hpp.
//
// A code has `exponent_bits` of exponent and 3 of mantissa, and stands for (1 + mantissa / 8) * 2^(exponent + base),
// with two exceptions: 0 is zero, and the highest code is what is not finite. There are no subnormals. The scale is the
// exponent of the largest finite magnitude of its block, as float32 stores it, and is given the second highest exponent
// of a code: the highest is room for rounding up. So decoding shifts and adds, and all that is decoded is normal.
#pragma once

#include <cstdint>

#include "rmsprop/storage.hpp"
#include "storage/bits.hpp"

namespace rmsprop {
namespace {

constexpr std::uint32_t magnitude_bits = 0x7FFFFFFF;
constexpr std::uint32_t infinity_bits = 0x7F800000;
constexpr int cut_bits = 20;  // of the mantissa

template <int exponent_bits>
struct Block {
  static constexpr std::int32_t highest = (1 << (exponent_bits + 3)) - 1;  // code
  static constexpr std::uint32_t top = (1U << exponent_bits) - 2;          // exponent of the largest magnitude
  static constexpr std::uint32_t least_scale = top + 1;                    // so that every base is at least 1
  static constexpr std::uint32_t most_scale = 254;                         // that of the largest float32

  // What is added to a code so that it has the upper bits of a float32. Any byte is a scale.
  static std::int32_t offset(std::uint32_t scale) {
    scale = scale < least_scale ? least_scale : scale;
    scale = scale > most_scale ? most_scale : scale;
    return static_cast<std::int32_t>((scale - top) << 3);
  }

  static std::uint8_t scale_for(const float* tile, std::int64_t n) {
    std::int32_t largest = 0;  // with a sign, which every instruction set compares
    for (std::int64_t i = 0; i < n; ++i) {
      const std::uint32_t magnitude = bits_as<std::uint32_t>(tile[i]) & magnitude_bits;
      const auto finite = static_cast<std::int32_t>(magnitude < infinity_bits ? magnitude : 0);
      largest = finite > largest ? finite : largest;
    }
    const std::uint32_t exponent = static_cast<std::uint32_t>(largest) >> 23;
    return static_cast<std::uint8_t>(exponent < least_scale ? least_scale : exponent);
  }

  static float number(std::int32_t code, std::int32_t offset) {
    return bits_as<float>(static_cast<std::uint32_t>(code == 0 ? 0 : code + offset) << cut_bits);
  }

  // Rounded stochastically: 16 random bits, and one more that makes them symmetric. At least the smallest code, which
  // is only right above it.
  static std::int32_t rounded(std::uint32_t magnitude, std::int32_t offset, std::uint32_t random) {
    const auto code = static_cast<std::int32_t>((magnitude + (random << 4 | 8)) >> cut_bits) - offset;
    return code < 1 ? 1 : code;
  }
};

// Of numbers that are not negative, and must not become zero: their roots divide.
struct Unsigned8 {
  using Computed = float;
  using Stored = std::uint8_t;
  using Blocks = Block<5>;

  static float decode(Stored stored, std::int32_t offset) {
    return stored == Blocks::highest ? bits_as<float>(infinity_bits) : Blocks::number(stored, offset);
  }

  static Stored encode(float value, std::int32_t offset, std::uint32_t random) {
    const std::uint32_t magnitude = bits_as<std::uint32_t>(value) & magnitude_bits;
    std::int32_t code = Blocks::rounded(magnitude, offset, random);
    code = magnitude == 0 ? 0 : code;
    return static_cast<Stored>(magnitude >= infinity_bits ? Blocks::highest : code);
  }
};

// Of numbers that are added: below the smallest code they become zero or that code, so that they stay right in the
// mean.
struct Signed8 {
  using Computed = float;
  using Stored = std::uint8_t;
  using Blocks = Block<4>;

  static float decode(Stored stored, std::int32_t offset) {
    const std::int32_t code = stored & 0x7F;
    const float magnitude = code == Blocks::highest ? bits_as<float>(0x7FC00000U) : Blocks::number(code, offset);
    return bits_as<float>(bits_as<std::uint32_t>(magnitude) | static_cast<std::uint32_t>(stored & 0x80) << 24);
  }

  static Stored encode(float value, std::int32_t offset, std::uint32_t random) {
    const auto bits = bits_as<std::uint32_t>(value);
    const std::uint32_t magnitude = bits & magnitude_bits;
    // In units of 2^base, the smallest code is 9/8.
    const auto unit = bits_as<float>(static_cast<std::uint32_t>((254 << 3) - offset) << cut_bits);
    const float share = bits_as<float>(magnitude) * unit;
    const float threshold = static_cast<float>(static_cast<std::int32_t>(random)) * (1.125F / 65536);
    const std::int32_t smallest = threshold < share ? 1 : 0;
    std::int32_t code = share < 1.125F ? smallest : Blocks::rounded(magnitude, offset, random);
    code |= static_cast<std::int32_t>(bits >> 24 & 0x80);
    return static_cast<Stored>(magnitude >= infinity_bits ? Blocks::highest
                                                          : code);  // the sign of a NaN is not defined
  }
};

}  // namespace
}  // namespace rmsprop
