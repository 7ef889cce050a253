// The engine: runs the kernels over all tensors, in one equal share per thread.

#include "rmsprop/step.hpp"

#include <cstdint>
#include <span>

#include "instruction_set.hpp"
#include "pieces.hpp"

namespace rmsprop {

void step(std::span<const Tensor> tensors, int num_threads) noexcept {
  const Kernels& kernels = chosen_kernels();
  for_each_piece_in_parallel(tensors, num_threads,
                             [&](const Tensor& tensor, std::int64_t begin, std::int64_t end) noexcept {
                               kernels.step_range[static_cast<int>(tensor.dtype)](tensor, begin, end);
                             });
}

}  // namespace rmsprop
