#include "arrays.hpp"

#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "threads.hpp"

namespace {

constexpr std::size_t page = 4096;
constexpr std::int64_t cache_line = 64;

// NumPy asks for huge pages from this size on.
[[maybe_unused]] constexpr std::size_t huge_from = std::size_t{1} << 22;

// A number in [0, 1) that depends on `i` alone, so that every thread can fill its own part (the mixer of splitmix64).
double random_at(std::uint64_t i) {
  i = (i + 1) * 0x9E3779B97F4A7C15u;
  i = (i ^ (i >> 30)) * 0xBF58476D1CE4E5B9u;
  i = (i ^ (i >> 27)) * 0x94D049BB133111EBu;
  return static_cast<double>((i ^ (i >> 31)) >> 11) * 0x1p-53;
}

}  // namespace

PageAlignedMemory::PageAlignedMemory(std::size_t bytes)
    : data_(static_cast<std::byte*>(::operator new(bytes, std::align_val_t{page}))) {
#if defined(__linux__)
  if (bytes >= huge_from) madvise(data_.get(), bytes / page * page, MADV_HUGEPAGE);
#endif
}

void PageAlignedMemory::Free::operator()(std::byte* memory) const { ::operator delete(memory, std::align_val_t{page}); }

template <class T>
Arrays<T>::Arrays(const std::vector<std::int64_t>& sizes, int threads) {
  constexpr std::int64_t per_line = cache_line / static_cast<std::int64_t>(sizeof(T));
  std::int64_t length = 0;
  std::vector<std::int64_t> begins;
  for (const std::int64_t size : sizes) {
    begins.push_back(length);
    length += (size + per_line - 1) / per_line * per_line;
    elements_ += size;
  }
  T* blocks[5];
  for (T*& block : blocks) {
    block = reinterpret_cast<T*>(memory_.emplace_back(static_cast<std::size_t>(length) * sizeof(T)).data());
  }
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    const std::int64_t begin = begins[i];
    tensors_.push_back(
        {blocks[0] + begin, blocks[1] + begin, blocks[2] + begin, blocks[3] + begin, blocks[4] + begin, sizes[i]});
  }

  struct Work {
    const Arrays* arrays;
    T* param_block;
    int shares;
  } const work = {this, blocks[0], threads};
  rmsprop::run_shares({threads, 1,
                       [](const void* context, int share) {
                         const Work& w = *static_cast<const Work*>(context);
                         w.arrays->for_share(share, w.shares, [&](const Slice<T>& slice) {
                           const auto first = static_cast<std::uint64_t>(slice.param - w.param_block) * 4;
                           for (std::int64_t i = 0; i < slice.size; ++i) {
                             const std::uint64_t seed = first + static_cast<std::uint64_t>(i) * 4;
                             slice.param[i] = static_cast<T>(2.0 * random_at(seed) - 1.0);
                             slice.grad[i] = static_cast<T>((random_at(seed + 1) < 0.5 ? -1.0 : 1.0) *
                                                            (0.5 + 0.7 * random_at(seed + 2)));
                             slice.square_avg[i] = static_cast<T>(1.5 + 1.5 * random_at(seed + 3));
                             slice.grad_avg[i] = T(0);
                             slice.momentum_buffer[i] = T(0);
                           }
                         });
                       },
                       &work});
}

template class Arrays<float>;
template class Arrays<double>;
