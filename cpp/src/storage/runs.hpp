// Copies of strided elements into a dense run and back. Internal linkage for the reason given in rules/rules.hpp.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "rmsprop/tensor.hpp"

namespace rmsprop {
namespace {

// A place in a layout: the index of one element, which is the same in all operands.
class Position {
 public:
  // A dense tensor has no layout, and its position is never used.
  Position(const Layout* layout, std::int64_t element) : layout_(layout) {
    if (layout == nullptr) return;
    for (int d = layout->ndim - 1; d >= 0; --d) {
      index_[d] = element % layout->shape[d];
      element /= layout->shape[d];
    }
  }

  void advance(std::int64_t n) {
    int d = layout_->ndim - 1;
    index_[d] += n;
    for (; d > 0 && index_[d] >= layout_->shape[d]; --d) {
      index_[d - 1] += index_[d] / layout_->shape[d];
      index_[d] %= layout_->shape[d];
    }
  }

  // The offset of an operand's element from the one with index zero, in bytes.
  std::int64_t offset(int operand) const {
    std::int64_t offset = 0;
    for (int d = 0; d < layout_->ndim; ++d) offset += index_[d] * layout_->strides[operand][d];
    return offset;
  }

  // Calls visit(first_byte, stride, count) for each straight run of an operand among the `n` elements from here on,
  // where `first` is this position's, and returns the byte of the element that comes after them.
  template <class Byte, class Visit>
  Byte* for_each_run(int operand, Byte* first, std::int64_t n, Visit visit) const {
    const auto& shape = layout_->shape;
    const auto& strides = layout_->strides[operand];
    const int last = layout_->ndim - 1;
    // NOLINTNEXTLINE(clang-analyzer-security.ArrayBound): normalize() leaves at least one dimension
    const std::int64_t left = shape[last] - index_[last];
    if (n < left) {
      visit(first, strides[last], n);
      return first + n * strides[last];
    }
    std::int64_t index[Layout::max_dims];
    for (int d = 0; d < last; ++d) index[d] = index_[d];
    first -= index_[last] * strides[last];  // where the row begins
    for (std::int64_t begin = index_[last];; begin = 0) {
      const std::int64_t end = shape[last] - begin < n ? shape[last] : begin + n;
      visit(first + begin * strides[last], strides[last], end - begin);
      n -= end - begin;
      if (end < shape[last]) return first + end * strides[last];
      // The next row: an index at its end returns to zero and carries into the one before it.
      for (int d = last - 1; d >= 0; --d) {
        first += strides[d];
        if (++index[d] < shape[d]) break;
        first -= shape[d] * strides[d];
        index[d] = 0;
      }
      if (n == 0) return first;
    }
  }

 private:
  const Layout* layout_;
  std::int64_t index_[Layout::max_dims];
};

// Between a dense run and the `n` elements of an operand from a position on, the first of which is at `first`.
struct Runs {
  std::byte* (*gather)(std::byte* run, std::byte* first, const Position& position, int operand, std::int64_t n);
  void (*scatter)(const std::byte* run, std::byte* first, const Position& position, int operand, std::int64_t n);
};

// Calls copy(i) for each i in [0, count), unrolled by four: compilers do not unroll strided loops of one load and one
// store, whose counters cost as much as the rest.
template <class Copy>
inline void for_each_index(std::int64_t count, Copy copy) {
  std::int64_t i = 0;
  for (; i + 4 <= count; i += 4) {
    copy(i);
    copy(i + 1);
    copy(i + 2);
    copy(i + 3);
  }
  for (; i < count; ++i) copy(i);
}

// Element by element through memcpy: the elements of a strided array need not be aligned.
template <class Word>
constexpr Runs runs_of_words = {
    [](std::byte* run, std::byte* first, const Position& position, int operand, std::int64_t n) {
      Word* to = reinterpret_cast<Word*>(run);
      return position.for_each_run(
          operand, first, n, [&](const std::byte* from, std::int64_t stride, std::int64_t count) {
            Word* const words = to;
            for_each_index(count, [=](std::int64_t i) { std::memcpy(words + i, from + i * stride, sizeof(Word)); });
            to += count;
          });
    },
    [](const std::byte* run, std::byte* first, const Position& position, int operand, std::int64_t n) {
      const Word* from = reinterpret_cast<const Word*>(run);
      position.for_each_run(operand, first, n, [&](std::byte* to, std::int64_t stride, std::int64_t count) {
        const Word* const words = from;
        for_each_index(count, [=](std::int64_t i) { std::memcpy(to + i * stride, words + i, sizeof(Word)); });
        from += count;
      });
    }};

inline const Runs& runs_of(std::int64_t item_size) {
  switch (item_size) {
    case 1:
      return runs_of_words<std::uint8_t>;
    case 2:
      return runs_of_words<std::uint16_t>;
    case 4:
      return runs_of_words<std::uint32_t>;
    default:
      return runs_of_words<std::uint64_t>;
  }
}

}  // namespace
}  // namespace rmsprop
