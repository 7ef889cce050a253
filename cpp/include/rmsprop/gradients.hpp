// What a step may want to know of all gradients before it begins: their norm, and whether they are finite.
#pragma once

#include <cstdint>
#include <span>

#include "rmsprop/tensor.hpp"

namespace rmsprop {

// These functions read the gradient of each tensor, times the grad_scale of its update, and nothing else. A layout, if
// there is one, visits the elements by their index (normalize_in_order), so that the result does not depend on where
// they lie in memory.

// The sum of the squares of all gradients. Always the same bits: squares are added in double precision over blocks of
// `norm_block` elements of each tensor, in 16 interleaved partial sums that are added as a tree, and the sums of the
// blocks one after the other. Allocates nothing. Threads as for step().
inline constexpr std::int64_t norm_block = 4096;
double sum_of_squares(std::span<const Tensor> tensors, int num_threads = 0) noexcept;

// What gradients are multiplied with so that the root of their sum of squares is at most about `clip_norm`:
// min(1, clip_norm / (norm + 1e-6)), as in PyTorch; NaN if the sum is.
double clip_scale(double sum_of_squares, double clip_norm) noexcept;

// True if no gradient of the tensor is infinite or NaN.
bool is_finite(const Tensor& tensor) noexcept;

}  // namespace rmsprop
