/// @file
/// The engine: one call steps any number of tensors, in place.
#pragma once

#include <span>

#include "rmsprop/tensor.hpp"

namespace rmsprop {

/// Applies its update to every tensor.
///
/// No array that is written may overlap another array of this call, and every pointer must be valid; nothing is checked
/// here. The work is divided into at most `num_threads` shares of equal size (0: get_num_threads()), whatever the sizes
/// of the tensors; a small step runs on the calling thread. Not a bit of the result depends on the number of threads.
///
/// Several threads may step at the same time as long as none writes an array that another one reads or writes. A step
/// allocates nothing that grows with the tensors, leaves the floating-point environment of the caller as it was, and
/// never throws.
void step(std::span<const Tensor> tensors, int num_threads = 0) noexcept;

}  // namespace rmsprop
