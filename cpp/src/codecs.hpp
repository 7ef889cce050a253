// Storage formats in and out of a tile: how elements that do not lie side by side reach the rules, which know only
// dense runs. Internal linkage for the reason given in rules.hpp.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "rmsprop/tensor.hpp"

namespace rmsprop {
namespace {

// Calls visit(first_byte_offset, stride, count) for each straight run of elements among the `n` that follow element
// `begin` in the order of the layout.
template <class Visit>
inline void for_each_run(const Layout& layout, Operand operand, std::int64_t begin, std::int64_t n, Visit visit) {
  const auto& strides = layout.strides[operand];
  const int last = layout.ndim - 1;
  std::int64_t index[Layout::max_dims];
  std::int64_t offset = 0;
  std::int64_t rest = begin;
  for (int d = last; d >= 0; --d) {
    index[d] = rest % layout.shape[d];
    rest /= layout.shape[d];
    offset += index[d] * strides[d];
  }
  while (n > 0) {
    // NOLINTNEXTLINE(clang-analyzer-security.ArrayBound): normalize() leaves at least one dimension
    const std::int64_t left = layout.shape[last] - index[last];
    const std::int64_t count = left < n ? left : n;
    visit(offset, strides[last], count);
    n -= count;
    if (n == 0) return;
    // On to the next run: the last index goes back to zero and carries into the ones before it.
    offset -= index[last] * strides[last];
    index[last] = 0;
    for (int d = last - 1; d >= 0; --d) {
      offset += strides[d];
      if (++index[d] < layout.shape[d]) break;
      offset -= layout.shape[d] * strides[d];
      index[d] = 0;
    }
  }
}

// Element by element through memcpy: the elements of a strided array need not be aligned.
template <class T>
void gather(T* tile, const Tensor& tensor, Operand operand, std::int64_t begin, std::int64_t n) {
  const std::byte* base = tensor.data[operand];
  for_each_run(*tensor.layout, operand, begin, n, [&](std::int64_t offset, std::int64_t stride, std::int64_t count) {
    const std::byte* from = base + offset;
    for (std::int64_t i = 0; i < count; ++i) std::memcpy(tile + i, from + i * stride, sizeof(T));
    tile += count;
  });
}

template <class T>
void scatter(const T* tile, const Tensor& tensor, Operand operand, std::int64_t begin, std::int64_t n) {
  std::byte* base = tensor.data[operand];
  for_each_run(*tensor.layout, operand, begin, n, [&](std::int64_t offset, std::int64_t stride, std::int64_t count) {
    std::byte* to = base + offset;
    for (std::int64_t i = 0; i < count; ++i) std::memcpy(to + i * stride, tile + i, sizeof(T));
    tile += count;
  });
}

}  // namespace
}  // namespace rmsprop
