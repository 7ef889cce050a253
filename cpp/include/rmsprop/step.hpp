/// @file
/// The engine: one call steps any number of tensors, in place.
#pragma once

#include <span>

#include "rmsprop/tensor.hpp"

namespace rmsprop {

/// Applies its update to every tensor.
///
/// The caller promises that no array that is written overlaps another array of this call, and that every pointer is
/// valid; nothing is checked here. The work is cut into at most `num_threads` shares of equal size (0: as many as
/// get_num_threads() says) whatever the sizes of the tensors; little work stays on the calling thread. The result does
/// not depend on the number of threads, by a single bit.
///
/// Several threads may step at the same time as long as none writes an array that another one reads or writes. A step
/// allocates nothing that grows with the tensors, leaves the floating-point environment of the caller as it was, and
/// never throws.
void step(std::span<const Tensor> tensors, int num_threads = 0) noexcept;

}  // namespace rmsprop
