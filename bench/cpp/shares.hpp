// How the limits share their work among threads: as the engine does.
#pragma once

#include <cstdint>
#include <span>

#include "limits.hpp"

// Part of `total` elements laid end to end.
struct Range {
  std::int64_t begin, end;
};

// One of `shares` even parts, cut so that no cache line is written by two threads.
inline Range share_of(std::int64_t total, int share, int shares) {
  constexpr std::int64_t cache_line = 64;
  const auto cut = [&](int k) {
    const std::int64_t element = total * k / shares;
    const std::int64_t up = (element + cache_line - 1) / cache_line * cache_line;
    return up < total ? up : total;
  };
  return {cut(share), cut(share + 1)};
}

// Calls body(slice) for what lies in one of `shares` even shares of tensors that have so many elements in all.
template <class T, class Body>
void for_share(std::span<const Slice<T>> tensors, std::int64_t elements, int share, int shares, Body body) {
  const Range range = share_of(elements, share, shares);
  std::int64_t before = 0;
  for (const Slice<T>& tensor : tensors) {
    const std::int64_t begin = range.begin > before ? range.begin - before : 0;
    const std::int64_t end = range.end < before + tensor.size ? range.end - before : tensor.size;
    if (begin < end) {
      // The last two arrays are there for centered RMSprop and momentum only.
      body(Slice<T>{tensor.param + begin, tensor.grad + begin, tensor.square_avg + begin,
                    tensor.grad_avg ? tensor.grad_avg + begin : nullptr,
                    tensor.momentum_buffer ? tensor.momentum_buffer + begin : nullptr, end - begin});
    }
    before += tensor.size;
    if (before >= range.end) return;
  }
}
