// Divides a sequence of tensors into one equal share per thread.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include "rmsprop/runtime.hpp"
#include "rmsprop/tensor.hpp"
#include "threads.hpp"

namespace rmsprop {

inline constexpr std::int64_t cache_line = 64;

// The cost of a share is counted in bytes of its parameters. Each tensor costs this much more than its bytes.
inline constexpr std::int64_t cost_of_a_tensor = 128;

// The least share that is worth waking a thread for: about 4 microseconds of work.
inline constexpr std::int64_t least_cost_of_a_share = 40'000;

inline std::int64_t cost(const Tensor& tensor) { return tensor.size * item_size(tensor.dtype) + cost_of_a_tensor; }

// The first element at or after `element` that starts a cache line of the parameter, so that no two threads write into
// the same line. The elements of a strided parameter share cache lines at any cut.
inline std::int64_t at_cache_line(const Tensor& tensor, std::int64_t element) {
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

// Calls visit(tensor, begin, end) for the elements of each tensor in share k: those between k and k + 1 parts of the
// total cost. This depends only on the sizes, so that a thread gets the same memory in every step.
template <class Visit>
void for_each_piece(std::span<const Tensor> tensors, std::int64_t total_cost, int share, int shares, Visit visit) {
  const std::int64_t from = total_cost * share / shares;
  const std::int64_t to = total_cost * (share + 1) / shares;
  std::int64_t before = 0;  // the cost of the tensors passed so far
  for (const Tensor& tensor : tensors) {
    if (before >= to) return;
    const std::int64_t after = before + cost(tensor);
    if (after > from) {
      const std::int64_t begin = cut(tensor, from - before);
      const std::int64_t end = cut(tensor, to - before);
      if (begin < end) visit(tensor, begin, end);
    }
    before = after;
  }
}

// The number of threads for tensors of this total cost, `num_threads` at most (0: as many as the process has set).
inline int shares_for(std::int64_t total_cost, int num_threads) {
  const int threads = std::min(num_threads > 0 ? num_threads : get_num_threads(), max_num_threads);
  const std::int64_t worth = std::max<std::int64_t>(1, total_cost / least_cost_of_a_share);
  return static_cast<int>(std::min<std::int64_t>(threads, worth));
}

inline std::int64_t total_cost_of(std::span<const Tensor> tensors) {
  std::int64_t total_cost = 0;
  for (const Tensor& tensor : tensors) total_cost += cost(tensor);
  return total_cost;
}

// The same for all shares, on threads. The callbacks must not throw.
template <class Visit>
void for_each_piece_in_parallel(std::span<const Tensor> tensors, int num_threads, const Visit& visit) noexcept {
  struct Work {
    std::span<const Tensor> tensors;
    const Visit& visit;
    std::int64_t total_cost;
    int shares;
  };
  const std::int64_t total_cost = total_cost_of(tensors);
  const int shares = shares_for(total_cost, num_threads);
  const Work work = {tensors, visit, total_cost, shares};
  run_shares(
      shares,
      [](const void* context, int share) {
        const Work& w = *static_cast<const Work*>(context);
        for_each_piece(w.tensors, w.total_cost, share, w.shares, w.visit);
      },
      &work);
}

}  // namespace rmsprop
