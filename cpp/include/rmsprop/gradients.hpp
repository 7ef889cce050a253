/// @file
/// Reductions over all gradients before a step: their norm, and whether they are finite.
///
/// The functions that take tensors read the gradient of each, times the `grad_scale` of its update, and nothing else:
/// its other arrays may be null. A layout, if there is one, has to visit the elements by their index (made by
/// normalize_in_order()), so that the result does not depend on their placement in memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "rmsprop/tensor.hpp"

namespace rmsprop {

/// Elements of a tensor whose squares are summed before the sum is added to the total.
inline constexpr std::int64_t norm_block = 4096;

/// The sum of the squares of all gradients.
///
/// The bits are always the same: squares are added in double precision over blocks of `norm_block` elements of each
/// tensor, in 16 interleaved partial sums that are added as a tree, and the sums of the blocks one after the other.
/// Allocates nothing that grows with the tensors, and writes to none of them: gradients may overlap, or be read by
/// several threads. Threads as for step().
double sum_of_squares(std::span<const Tensor> tensors, int num_threads = 0) noexcept;

/// The factor for gradients by which the root of their sum of squares is at most about `clip_norm`:
/// min(1, clip_norm / (norm + 1e-6)), as in PyTorch; NaN if the sum is. Give it to set_clip_scale().
double clip_scale(double sum_of_squares, double clip_norm) noexcept;

/// True if no gradient of the tensor is infinite or NaN. Runs on the calling thread.
bool is_finite(const Tensor& tensor) noexcept;

/// The index of the first tensor with a gradient that is infinite or NaN, or `tensors.size()`. Threads as for step().
std::size_t find_nonfinite(std::span<const Tensor> tensors, int num_threads = 0) noexcept;

}  // namespace rmsprop
