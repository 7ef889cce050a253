// The arrays that are stepped.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "limits.hpp"
#include "shares.hpp"

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
    ::for_share<T>(tensors_, elements_, share, shares, body);
  }

 private:
  std::int64_t elements_ = 0;
  std::vector<PageAlignedMemory> memory_;
  std::vector<Slice<T>> tensors_;
};
