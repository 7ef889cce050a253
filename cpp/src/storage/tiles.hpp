// Dense views of a tensor's operands, one tile at a time. Internal linkage for the reason given in rules/rules.hpp.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "rmsprop/tensor.hpp"
#include "storage/formats.hpp"
#include "storage/random.hpp"
#include "storage/runs.hpp"

namespace rmsprop {
namespace {

// Pointers to the same dense run of elements in every operand; null where the tensor has none.
template <class T>
using Tile = std::array<T*, operand_count>;

// The length of a tile is a multiple of this many elements: whole cache lines. With scales it is one of whole blocks.
constexpr std::int64_t tile_granularity = 16;

// An operand that is dense and stored as T is used as a tile itself. Any other has a buffer here, into which it is
// gathered and decoded. All buffers share `bytes` of the stack, so the length of a tile depends on the number of
// buffers.
template <class T, std::size_t bytes>
class Tiles {
 public:
  // Tiles of the operands with a bit in `operands` from element `begin` on.
  Tiles(const Tensor& tensor, unsigned operands, std::int64_t begin)
      : tensor_(tensor), position_(tensor.layout, begin), element_(begin) {
    int buffers = 0;
    bool gathers_packed = false;
    bool needs_random = false;
    std::int64_t granularity = tile_granularity;
    for (int operand = 0; operand < operand_count; ++operand) {
      if ((operands >> operand & 1u) == 0 || tensor.data[operand] == nullptr) continue;
      const Packing packing = tensor.packing_of(operand);
      const Format<T>& format = formats<T>[static_cast<int>(packing)];
      const bool is_packed = format.decode != nullptr;
      const bool is_dense = tensor.layout == nullptr || tensor.layout->dense[operand];
      const std::int64_t item = tensor.item_size_of(operand);
      std::byte* data = tensor.data[operand] + (is_dense ? begin * item : position_.offset(operand));
      if (is_dense && !is_packed) {
        own_[own_count_++] = {operand, reinterpret_cast<T*>(data)};
      } else {
        std::uint8_t* scales = nullptr;
        if (has_scales(packing)) {
          scales = reinterpret_cast<std::uint8_t*>(tensor.data[scale_of(operand)]) + begin / block_size;
          granularity = block_size;
        }
        moved_[moved_count_++] = {operand, buffers++, data,
                                  item,    &format,   is_dense ? nullptr : &runs_of(item),
                                  nullptr, scales,    is_stochastic(packing)};
        gathers_packed = gathers_packed || (is_packed && !is_dense);
        needs_random = needs_random || is_stochastic(packing);
      }
    }
    const int all_buffers = buffers + (gathers_packed ? 1 : 0) + (needs_random ? 1 : 0);
    const std::int64_t fit = static_cast<std::int64_t>(bytes / sizeof(T)) / (all_buffers > 1 ? all_buffers : 1);
    size_ = (fit < longest ? fit : longest) / granularity * granularity;
    gathered_ = reinterpret_cast<std::byte*>(memory_ + buffers * size_);
    random_ = reinterpret_cast<std::uint32_t*>(gathered_ + (gathers_packed ? size_ * sizeof(T) : 0));
  }

  // Elements of every tile but the last.
  std::int64_t size() const { return size_; }

  // The next `n` elements, valid until the next call. Changes have to be written back.
  const Tile<T>& read(std::int64_t n) {
    for (int i = 0; i < own_count_; ++i) tile_[own_[i].operand] = own_[i].data;
    for (int i = 0; i < moved_count_; ++i) {
      Moved& moved = moved_[i];
      T* const tile = buffer(moved);
      const bool is_packed = moved.format->decode != nullptr;
      const std::byte* stored = moved.data;
      if (moved.runs != nullptr) {
        std::byte* const run = is_packed ? gathered_ : reinterpret_cast<std::byte*>(tile);
        moved.next = moved.runs->gather(run, moved.data, position_, moved.operand, n);
        stored = run;
      }
      if (is_packed) moved.format->decode(tile, stored, n, {moved.scales, nullptr, 0});
      tile_[moved.operand] = tile;
    }
    return tile_;
  }

  void write_back(std::int64_t n) {
    int hash = -1;  // the one that is in random_
    for (int i = 0; i < moved_count_; ++i) {
      const Moved& moved = moved_[i];
      if (moved.operand == grad) continue;
      const T* const tile = buffer(moved);
      const std::byte* run = reinterpret_cast<const std::byte*>(tile);
      if (moved.format->encode != nullptr) {
        std::byte* const stored = moved.runs == nullptr ? moved.data : gathered_;
        const RandomBits& bits = random_bits[moved.operand];
        if (moved.is_stochastic && hash != bits.hash) {
          fill_random(random_, tensor_.random, hash = bits.hash, element_, n);
        }
        moved.format->encode(stored, tile, n, {moved.scales, random_, bits.shift});
        run = stored;
      }
      if (moved.runs != nullptr) moved.runs->scatter(run, moved.data, position_, moved.operand, n);
    }
  }

  // Advances to the elements after the next `n`.
  void advance(std::int64_t n) {
    for (int i = 0; i < own_count_; ++i) own_[i].data += n;
    for (int i = 0; i < moved_count_; ++i) {
      Moved& moved = moved_[i];
      moved.data = moved.runs == nullptr ? moved.data + n * moved.item : moved.next;
      if (moved.scales != nullptr) moved.scales += n / block_size;
    }
    element_ += n;
    if (tensor_.layout != nullptr) position_.advance(n);
  }

 private:
  // Longer tiles gain nothing.
  static constexpr std::int64_t longest = 512;

  struct Own {
    int operand;
    T* data;  // the next element
  };

  // An operand with a buffer.
  struct Moved {
    int operand, buffer;
    std::byte* data;  // the next element
    std::int64_t item;
    const Format<T>* format;
    const Runs* runs;      // null if it is dense
    std::byte* next;       // the next value of `data` if it is strided
    std::uint8_t* scales;  // of the next elements; null if its format has none
    bool is_stochastic;
  };

  T* buffer(const Moved& moved) { return memory_ + moved.buffer * size_; }

  const Tensor& tensor_;
  Position position_;
  Tile<T> tile_ = {};
  Own own_[operand_count];
  int own_count_ = 0;
  Moved moved_[operand_count];
  int moved_count_ = 0;
  std::int64_t size_;
  std::int64_t element_;   // the index of the next one
  std::byte* gathered_;    // a buffer for packed elements that were strided
  std::uint32_t* random_;  // a buffer for hashes
  alignas(64) T memory_[bytes / sizeof(T)];
};

}  // namespace
}  // namespace rmsprop
