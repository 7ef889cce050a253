// Which compiled copy of the kernels runs.
#pragma once

#include "kernels.hpp"

namespace rmsprop {

// The kernels of the chosen instruction set: one atomic load.
const Kernels& chosen_kernels() noexcept;

}  // namespace rmsprop
