// The engine: lays all tensors end to end, cuts the whole into one share per thread, and runs the kernels over each.

#include "rmsprop/step.hpp"

#include <algorithm>
#include <cstdint>

#include "instruction_set.hpp"
#include "rmsprop/runtime.hpp"
#include "threads.hpp"

namespace rmsprop {
namespace {

constexpr std::int64_t cache_line = 64;

// What a share costs is counted in bytes of its parameters. Each tensor costs this much more than its bytes.
constexpr std::int64_t cost_of_a_tensor = 128;

// A share must be worth waking a thread for: about 4 microseconds of work.
constexpr std::int64_t least_cost_of_a_share = 40'000;

std::int64_t cost(const Tensor& tensor) { return tensor.size * item_size(tensor.dtype) + cost_of_a_tensor; }

// The first element at or after `element` that starts a cache line of the parameter, so that no two threads write into
// the same line. The elements of a strided parameter share lines wherever it is cut.
std::int64_t at_cache_line(const Tensor& tensor, std::int64_t element) {
  const bool dense = tensor.layout == nullptr || tensor.layout->dense[param];
  if (!dense) return element;
  const auto address = static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(tensor.data[param]));
  const std::int64_t item = tensor.item_size_of(param);
  const std::int64_t misfit = (address + element * item) % cache_line;
  return misfit == 0 ? element : element + (cache_line - misfit) / item;
}

// The element at which a tensor is cut, `cost` from its beginning. Two neighbouring shares get the same answer.
std::int64_t cut(const Tensor& tensor, std::int64_t cost) {
  if (cost <= 0) return 0;
  const std::int64_t element = cost / item_size(tensor.dtype);
  return element < tensor.size ? std::min(at_cache_line(tensor, element), tensor.size) : tensor.size;
}

struct Work {
  std::span<const Tensor> tensors;
  const Kernels& kernels;
  std::int64_t total_cost;
  int shares;
};

// Share k is what lies between k and k + 1 parts of the total cost. This depends on the sizes alone, so that in every
// step a thread gets the memory it had in the step before.
void step_share(const Work& work, int share) noexcept {
  const std::int64_t from = work.total_cost * share / work.shares;
  const std::int64_t to = work.total_cost * (share + 1) / work.shares;
  std::int64_t before = 0;  // the cost of the tensors passed so far
  for (const Tensor& tensor : work.tensors) {
    if (before >= to) return;
    const std::int64_t after = before + cost(tensor);
    if (after > from) {
      const std::int64_t begin = cut(tensor, from - before);
      const std::int64_t end = cut(tensor, to - before);
      if (begin < end) work.kernels.step_range[static_cast<int>(tensor.dtype)](tensor, begin, end);
    }
    before = after;
  }
}

}  // namespace

void step(std::span<const Tensor> tensors, int num_threads) noexcept {
  std::int64_t total_cost = 0;
  for (const Tensor& tensor : tensors) total_cost += cost(tensor);

  const int threads = std::min(num_threads > 0 ? num_threads : get_num_threads(), max_num_threads);
  const std::int64_t worth = std::max<std::int64_t>(1, total_cost / least_cost_of_a_share);
  const Work work = {tensors, chosen_kernels(), total_cost, static_cast<int>(std::min<std::int64_t>(threads, worth))};
  run_shares(
      work.shares, [](const void* context, int share) { step_share(*static_cast<const Work*>(context), share); },
      &work);
}

}  // namespace rmsprop
