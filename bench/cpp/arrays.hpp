// The arrays that are stepped.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "limits.hpp"

// Uninitialised memory that begins on a page, so that all arrays lie alike, and may use huge pages as NumPy's do.
class PageAlignedMemory {
 public:
  explicit PageAlignedMemory(std::size_t bytes);
  std::byte* data() const { return data_.get(); }

 private:
  struct Free {
    void operator()(std::byte* memory) const;
  };
  std::unique_ptr<std::byte, Free> data_;
};

// The share of each thread, cut as the engine cuts: `total` things laid end to end, in even parts.
struct Range {
  std::int64_t begin, end;
};
Range share_of(std::int64_t total, int share, int shares);

// Parameters of the given sizes with their gradients and accumulators, each operand in one block of memory with every
// tensor on a cache line. Filled by `threads` threads, each its own share, so that a page lies near the thread using
// it.
//
// The values are random and stay ordinary however often the loops run: 0.5 <= |grad| < 1.2 and 1.5 <= square_avg.
template <class T>
class Arrays {
 public:
  Arrays(const std::vector<std::int64_t>& sizes, int threads);
  const std::vector<Slice<T>>& tensors() const { return tensors_; }
  std::int64_t elements() const { return elements_; }

  // Calls body(slice) for what lies in one of `shares` even shares.
  template <class Body>
  void for_share(int share, int shares, Body body) const {
    const Range range = share_of(elements_, share, shares);
    std::int64_t before = 0;
    for (const Slice<T>& tensor : tensors_) {
      const std::int64_t begin = range.begin > before ? range.begin - before : 0;
      const std::int64_t end = range.end < before + tensor.size ? range.end - before : tensor.size;
      if (begin < end) {
        body(Slice<T>{tensor.param + begin, tensor.grad + begin, tensor.square_avg + begin, tensor.grad_avg + begin,
                      tensor.momentum_buffer + begin, end - begin});
      }
      before += tensor.size;
      if (before >= range.end) return;
    }
  }

 private:
  std::int64_t elements_ = 0;
  std::vector<PageAlignedMemory> memory_;
  std::vector<Slice<T>> tensors_;
};
