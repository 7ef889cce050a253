// The key of the random bits of one parameter in one step.

#include "storage/random.hpp"

#include <cstdint>

#include "rmsprop/storage.hpp"

namespace rmsprop {

std::uint64_t random_key(std::uint64_t seed, std::int64_t step, std::int64_t parameter) {
  constexpr std::uint64_t not_zero = 0x9E3779B97F4A7C15U;  // mixed(0) is 0
  return mixed(mixed(mixed(seed + not_zero) + static_cast<std::uint64_t>(step)) +
               static_cast<std::uint64_t>(parameter));
}

}  // namespace rmsprop
