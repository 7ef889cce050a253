// The interface of each compiled copy of kernels.cpp to the engine.
#pragma once

#include <array>
#include <cstdint>

#include "rmsprop/tensor.hpp"

namespace rmsprop {

// Functions for each DType. Elements are counted in the order of the tensor's layout.
struct Kernels {
  template <class Function>
  using ForEachType = std::array<Function, dtype_count>;

  // Applies the tensor's update to its elements [begin, end).
  ForEachType<void (*)(const Tensor& tensor, std::int64_t begin, std::int64_t end) noexcept> step_range;

  // The sum of the squares of `size` scaled gradients from `begin` on: one block of gradients.hpp.
  ForEachType<double (*)(const Tensor& tensor, std::int64_t begin, std::int64_t size) noexcept> sum_of_squares;

  // Whether the scaled gradients of elements [begin, end) are finite.
  ForEachType<bool (*)(const Tensor& tensor, std::int64_t begin, std::int64_t end) noexcept> is_finite;
};

}  // namespace rmsprop
