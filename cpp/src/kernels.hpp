// What each compiled copy of kernels.cpp offers to the engine.
#pragma once

#include <array>
#include <cstdint>

#include "rmsprop/tensor.hpp"

namespace rmsprop {

// Applies the tensor's update to its elements [begin, end), counted in the order of its layout.
using StepRange = void (*)(const Tensor& tensor, std::int64_t begin, std::int64_t end) noexcept;

// Indexed by DType.
using Kernels = std::array<StepRange, dtype_count>;

}  // namespace rmsprop
