// The random bits of stochastic rounding: a hash of what they may depend on, and of nothing else. Internal linkage for
// the reason given in rules/rules.hpp.
#pragma once

#include <cstdint>

#include "rmsprop/tensor.hpp"

namespace rmsprop {
namespace {

// Where the 16 random bits of an operand are: one hash of 32 bits serves two operands.
struct RandomBits {
  int hash;
  int shift;
};

// In the order of enum Operand; a gradient is never written, and what a split parameter lacks is never rounded.
constexpr RandomBits random_bits[elementwise_count] = {{0, 16}, {0, 0}, {0, 0}, {1, 16}, {1, 0}, {2, 0}, {2, 16}};

// Every bit of the result depends on every bit of the argument (SplitMix64's finalizer).
constexpr std::uint64_t mixed(std::uint64_t word) {
  word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9U;
  word = (word ^ (word >> 27)) * 0x94D049BB133111EBU;
  return word ^ (word >> 31);
}

// Hashes of the elements [first, first + n): two multiplications each. The indices are first spread over all bits by a
// multiple of the golden ratio, which is an addition from one element to the next. The second key makes the sequences
// of two keys different ones, and not the same one from other places on.
inline void fill_random(std::uint32_t* __restrict out, std::uint64_t key, int hash, std::int64_t first,
                        std::int64_t n) {
  while (n > 0) {
    const std::uint64_t begin = static_cast<std::uint64_t>(first);
    const std::int64_t left = static_cast<std::int64_t>((std::uint64_t{1} << 32) - (begin & 0xFFFFFFFF));
    const std::int64_t count = n < left ? n : left;
    const std::uint64_t keys = mixed(key + (static_cast<std::uint64_t>(hash) << 32) + (begin >> 32));
    const auto second = static_cast<std::uint32_t>(keys >> 32);
    std::uint32_t x = static_cast<std::uint32_t>(begin) * 0x9E3779B9U + static_cast<std::uint32_t>(keys);
    for (std::int64_t i = 0; i < count; ++i) {
      std::uint32_t h = (x ^ (x >> 16)) * 0x7FEB352DU;
      h = (h ^ (h >> 15) ^ second) * 0x846CA68BU;
      out[i] = h ^ (h >> 16);
      x += 0x9E3779B9U;
    }
    out += count;
    first += count;
    n -= count;
  }
}

}  // namespace
}  // namespace rmsprop
