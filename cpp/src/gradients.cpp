// The one reduction, cut into blocks that do not depend on the number of threads.

#include "rmsprop/gradients.hpp"

#include <algorithm>
#include <array>
#include <cmath>

#include "floating_point_scope.hpp"
#include "instruction_set.hpp"
#include "rmsprop/runtime.hpp"
#include "threads.hpp"

namespace rmsprop {
namespace {

// Blocks are summed in rounds of so many, so that the memory for their sums does not grow with the tensors.
constexpr int round_size = 1024;

// A share must be worth waking a thread for: so many blocks take about 4 microseconds.
constexpr int least_blocks_of_a_share = 4;

struct Block {
  const Tensor* tensor;
  std::int64_t begin;
  std::int64_t size;
};

// All blocks of all tensors, in order, some at a time.
class BlockSequence {
 public:
  explicit BlockSequence(std::span<const Tensor> tensors) : tensors_(tensors) {}

  // Writes the next blocks and returns how many there are; 0 at the end.
  int next(std::array<Block, round_size>& blocks) {
    int count = 0;
    while (count < round_size && tensor_ < tensors_.size()) {
      const Tensor& tensor = tensors_[tensor_];
      if (begin_ >= tensor.size) {
        ++tensor_;
        begin_ = 0;
        continue;
      }
      blocks[count++] = {&tensor, begin_, std::min(norm_block, tensor.size - begin_)};
      begin_ += norm_block;
    }
    return count;
  }

 private:
  std::span<const Tensor> tensors_;
  std::size_t tensor_ = 0;
  std::int64_t begin_ = 0;
};

struct Round {
  const Kernels& kernels;
  const Block* blocks;
  double* sums;
  int count;
  int shares;
};

void sum_share(const Round& round, int share) noexcept {
  const int end = round.count * (share + 1) / round.shares;
  for (int i = round.count * share / round.shares; i < end; ++i) {
    const Block& block = round.blocks[i];
    round.sums[i] =
        round.kernels.sum_of_squares[static_cast<int>(block.tensor->dtype)](*block.tensor, block.begin, block.size);
  }
}

}  // namespace

double sum_of_squares(std::span<const Tensor> tensors, int num_threads) noexcept {
  const int threads = std::min(num_threads > 0 ? num_threads : get_num_threads(), max_num_threads);
  BlockSequence sequence(tensors);
  std::array<Block, round_size> blocks;
  std::array<double, round_size> sums;
  double total = 0.0;
  while (const int count = sequence.next(blocks)) {
    const int shares = std::clamp(count / least_blocks_of_a_share, 1, threads);
    const Round round = {chosen_kernels(), blocks.data(), sums.data(), count, shares};
    run_shares(
        shares, [](const void* context, int share) { sum_share(*static_cast<const Round*>(context), share); }, &round);
    const FloatingPointScope scope;
    for (int i = 0; i < count; ++i) total += sums[i];
  }
  return total;
}

double clip_scale(double sum_of_squares, double clip_norm) noexcept {
  const FloatingPointScope scope;
  const double scale = clip_norm / (std::sqrt(sum_of_squares) + 1e-6);
  return scale > 1.0 ? 1.0 : scale;
}

bool is_finite(const Tensor& tensor) noexcept {
  const FloatingPointScope scope;
  return chosen_kernels().is_finite[static_cast<int>(tensor.dtype)](tensor);
}

std::size_t find_nonfinite(std::span<const Tensor> tensors, int /*num_threads*/) noexcept {
  const auto found = std::find_if(tensors.begin(), tensors.end(), [](const Tensor& t) { return !is_finite(t); });
  return static_cast<std::size_t>(found - tensors.begin());
}

}  // namespace rmsprop
