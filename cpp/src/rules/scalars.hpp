// The coefficients as the formulas use them. Internal linkage for the reason given in rules.hpp.
#pragma once

#include <cstddef>
#include <cstring>

#include "rmsprop/update.hpp"

namespace rmsprop {
namespace {

// Each rounded once to the compute type.
template <class T>
struct Scalars : CoefficientsOf<T> {
  explicit Scalars(const Coefficients& c) {
    constexpr std::size_t count = sizeof(Coefficients) / sizeof(double);
    static_assert(sizeof(CoefficientsOf<T>) == count * sizeof(T), "both are arrays of numbers with names");
    auto* const all = reinterpret_cast<std::byte*>(static_cast<CoefficientsOf<T>*>(this));
    for (std::size_t i = 0; i < count; ++i) {
      double exact;
      std::memcpy(&exact, reinterpret_cast<const std::byte*>(&c) + i * sizeof exact, sizeof exact);
      const T rounded = static_cast<T>(exact);
      std::memcpy(all + i * sizeof rounded, &rounded, sizeof rounded);
    }
  }
};

}  // namespace
}  // namespace rmsprop
