// Reductions over all gradients: the sum of their squares, in blocks that do not depend on the number of threads, and
// the first tensor that is not finite.

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>

#include "floating_point_scope.hpp"
#include "instruction_set.hpp"
#include "pieces.hpp"
#include "rmsprop/gradients.hpp"
#include "threads.hpp"

namespace rmsprop {
namespace {

// Blocks per round: the memory for their sums is on the stack of the calling thread, and does not grow with the
// tensors.
constexpr std::int64_t round_size = 512;

// A place in the sequence of all blocks of all tensors.
class BlockPosition {
 public:
  explicit BlockPosition(std::span<const Tensor> tensors) : tensors_(tensors) {}

  // Advances by `count` blocks, or to the end, and returns by how many.
  std::int64_t advance(std::int64_t count) {
    std::int64_t done = 0;
    while (tensor_ < tensors_.size()) {
      const std::int64_t left = (tensors_[tensor_].size + norm_block - 1) / norm_block - block_;
      if (count - done < left) {
        block_ += count - done;
        return count;
      }
      done += left;
      ++tensor_;
      block_ = 0;
    }
    return done;
  }

  // The sum of the block that is here, after which there must be one.
  double sum(const Kernels& kernels) const {
    const Tensor& tensor = tensors_[tensor_];
    const std::int64_t begin = block_ * norm_block;
    const std::int64_t size = std::min(norm_block, tensor.size - begin);
    return kernels.sum_of_squares[static_cast<int>(tensor.dtype)](tensor, begin, size);
  }

 private:
  std::span<const Tensor> tensors_;
  std::size_t tensor_ = 0;
  std::int64_t block_ = 0;
};

struct Round {
  const Kernels& kernels;
  BlockPosition first;
  double* sums;
  std::int64_t count;
  int shares;
};

void sum_share(const Round& round, int share) noexcept {
  std::int64_t i = round.count * share / round.shares;
  const std::int64_t end = round.count * (share + 1) / round.shares;
  BlockPosition block = round.first;
  for (block.advance(i); i < end; ++i, block.advance(1)) round.sums[i] = block.sum(round.kernels);
}

}  // namespace

double sum_of_squares(std::span<const Tensor> tensors, int num_threads) noexcept {
  // As many shares as a step of these tensors has, even if there are fewer blocks: OpenMP runtimes end the threads that
  // a smaller team does not need, and the step would have to start them again.
  const int shares = shares_for(Costs(tensors).total(), num_threads);
  std::array<double, round_size> sums;
  double total = 0.0;
  for (BlockPosition position(tensors);;) {
    const BlockPosition first = position;
    const std::int64_t count = position.advance(round_size);
    if (count == 0) return total;
    const Round round = {chosen_kernels(), first, sums.data(), count, shares};
    const auto run = [](const void* context, int share) { sum_share(*static_cast<const Round*>(context), share); };
    run_shares({shares, 1, run, &round});
    const FloatingPointScope scope;
    for (std::int64_t i = 0; i < count; ++i) total += sums[static_cast<std::size_t>(i)];
  }
}

double clip_scale(double sum_of_squares, double clip_norm) noexcept {
  const FloatingPointScope scope;
  const double scale = clip_norm / (std::sqrt(sum_of_squares) + 1e-6);
  return scale > 1.0 ? 1.0 : scale;
}

bool is_finite(const Tensor& tensor) noexcept {
  const FloatingPointScope scope;
  return chosen_kernels().is_finite[static_cast<int>(tensor.dtype)](tensor, 0, tensor.size);
}

std::size_t find_nonfinite(std::span<const Tensor> tensors, int num_threads) noexcept {
  const Kernels& kernels = chosen_kernels();
  std::atomic<std::size_t> first{tensors.size()};
  // In parts, so that a thread stops soon after another one has found an earlier tensor.
  constexpr std::int64_t part = 16 * norm_block;
  for_each_piece_in_parallel(
      tensors, num_threads, [&](const Tensor& tensor, std::int64_t begin, std::int64_t end) noexcept {
        const auto index = static_cast<std::size_t>(&tensor - tensors.data());
        for (; begin < end && index < first.load(std::memory_order_relaxed); begin += part) {
          const std::int64_t part_end = std::min(begin + part, end);
          if (kernels.is_finite[static_cast<int>(tensor.dtype)](tensor, begin, part_end)) continue;
          std::size_t found = first.load(std::memory_order_relaxed);
          while (index < found && !first.compare_exchange_weak(found, index, std::memory_order_relaxed)) {
          }
        }
      });
  return first;
}

}  // namespace rmsprop
