// Divides a sequence of tensors into one equal share per thread.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "rmsprop/runtime.hpp"
#include "rmsprop/tensor.hpp"
#include "threads.hpp"

namespace rmsprop {

// The cost of a share is counted in bytes of its parameters. Each tensor costs this much more than its bytes.
inline constexpr std::int64_t cost_of_a_tensor = 128;

// The least share that is worth waking a thread for: about 4 microseconds of work.
inline constexpr std::int64_t least_cost_of_a_share = 40'000;

inline std::int64_t cost(const Tensor& tensor) { return tensor.size * item_size(tensor.dtype) + cost_of_a_tensor; }

// The first element at or after `element` that starts a cache line of the parameter, so that no two threads write into
// the same line. The elements of a strided parameter share cache lines at any cut. A block with a scale is never cut.
inline std::int64_t at_cache_line(const Tensor& tensor, std::int64_t element) {
  if (tensor.has_blocks()) return blocks_of(element) * block_size;
  const bool dense = tensor.layout == nullptr || tensor.layout->dense[param];
  if (!dense) return element;
  const auto address = static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(tensor.data[param]));
  const std::int64_t item = tensor.item_size_of(param);
  const std::int64_t misfit = (address + element * item) % cache_line;
  return misfit == 0 ? element : element + (cache_line - misfit) / item;
}

// The element at which a tensor is cut, `cost` from its beginning. It is the same for both neighbouring shares.
inline std::int64_t cut(const Tensor& tensor, std::int64_t cost) {
  if (cost <= 0) return 0;
  const std::int64_t element = cost / item_size(tensor.dtype);
  return element < tensor.size ? std::min(at_cache_line(tensor, element), tensor.size) : tensor.size;
}

// The cost of a sequence of tensors, with the sums at some of them, from which the others are found.
class Costs {
 public:
  explicit Costs(std::span<const Tensor> tensors)
      : tensors_(tensors), tensors_per_mark_(std::max<std::size_t>(1, (tensors.size() + marks - 1) / marks)) {
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      if (i % tensors_per_mark_ == 0) before_[i / tensors_per_mark_] = total_;
      total_ += cost(tensors[i]);
    }
  }

  std::int64_t total() const { return total_; }

  // Calls visit(tensor, begin, end) for the elements of each tensor in piece k: those between k and k + 1 parts of the
  // total cost. This depends only on the sizes, so that a thread gets the same memory in every step.
  template <class Visit>
  void for_each_in(int piece, int pieces, const Visit& visit) const {
    const std::int64_t from = total_ * piece / pieces;
    const std::int64_t to = total_ * (piece + 1) / pieces;
    const auto used = static_cast<std::ptrdiff_t>((tensors_.size() + tensors_per_mark_ - 1) / tensors_per_mark_);
    const auto after = std::upper_bound(before_.begin(), before_.begin() + used, from);
    const auto mark = static_cast<std::size_t>(std::max<std::ptrdiff_t>(after - before_.begin(), 1) - 1);
    std::int64_t before = before_[mark];  // the cost of the tensors passed so far
    for (const Tensor& tensor : tensors_.subspan(std::min(mark * tensors_per_mark_, tensors_.size()))) {
      if (before >= to) return;
      const std::int64_t after_it = before + cost(tensor);
      if (after_it > from) {
        const std::int64_t begin = cut(tensor, from - before);
        const std::int64_t end = cut(tensor, to - before);
        if (begin < end) visit(tensor, begin, end);
      }
      before = after_it;
    }
  }

 private:
  static constexpr std::size_t marks = 64;

  std::span<const Tensor> tensors_;
  std::size_t tensors_per_mark_;
  std::int64_t total_ = 0;
  std::array<std::int64_t, marks> before_ = {};  // the cost of all tensors before each mark
};

// The number of threads for tensors of this total cost, `num_threads` at most (0: as many as the process has set).
inline int shares_for(std::int64_t total_cost, int num_threads) {
  const int threads = std::min(num_threads > 0 ? num_threads : get_num_threads(), max_num_threads);
  const std::int64_t worth = std::max<std::int64_t>(1, total_cost / least_cost_of_a_share);
  return static_cast<int>(std::min<std::int64_t>(threads, worth));
}

// In how many pieces each share is claimed: the more, the sooner other threads can take what a slow one has not begun.
inline int pieces_of_a_share(std::int64_t total_cost, int shares) {
  constexpr std::int64_t most = 16;
  return static_cast<int>(std::clamp<std::int64_t>(total_cost / shares / least_cost_of_a_share, 1, most));
}

// The same for all pieces, on threads. The callbacks must not throw.
template <class Visit>
void for_each_piece_in_parallel(std::span<const Tensor> tensors, int num_threads, const Visit& visit) noexcept {
  struct Context {
    const Costs& costs;
    const Visit& visit;
    int pieces;
  };
  const Costs costs(tensors);
  const int shares = shares_for(costs.total(), num_threads);
  const int pieces = pieces_of_a_share(costs.total(), shares);
  const Context all = {costs, visit, shares * pieces};
  const auto run_piece = [](const void* context, int piece) {
    const Context& c = *static_cast<const Context*>(context);
    c.costs.for_each_in(piece, c.pieces, c.visit);
  };
  run_shares({shares, pieces, run_piece, &all});
}

}  // namespace rmsprop
