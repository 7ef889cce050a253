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

// Pointers to the same dense run of elements in every operand, and in the average of the weights; null where the tensor
// has none.
constexpr int tile_count = ema + 1;
template <class T>
using Tile = std::array<T*, tile_count>;

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
    for (int operand = 0; operand < tile_count; ++operand) {
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
        Moved& moved = moved_[moved_count_++];
        moved = {operand, buffers++, data, item, &format, is_dense ? nullptr : &runs_of(item)};
        moved.is_stochastic = is_stochastic(packing);
        if (has_scales(packing)) {
          moved.scales = reinterpret_cast<std::uint8_t*>(tensor.data[scale_of(operand)]) + begin / block_size;
          granularity = block_size;
        }
        if (packing == Packing::split) {
          const bool is_dense_too = tensor.layout == nullptr || tensor.layout->dense[param_low];
          low_ = tensor.data[param_low] + (is_dense_too ? begin * low_size : position_.offset(param_low));
          low_runs_ = is_dense_too ? nullptr : &runs_of(low_size);
        }
        gathers_packed = gathers_packed || (is_packed && !is_dense);
        needs_random = needs_random || moved.is_stochastic;
      }
    }
    const int all_buffers =
        buffers + (gathers_packed ? 1 : 0) + (needs_random ? 1 : 0) + (low_runs_ != nullptr ? 1 : 0);
    const std::int64_t fit = static_cast<std::int64_t>(bytes / sizeof(T)) / (all_buffers > 1 ? all_buffers : 1);
    size_ = (fit < longest ? fit : longest) / granularity * granularity;
    T* next = memory_ + buffers * size_;
    gathered_ = reinterpret_cast<std::byte*>(next);
    if (gathers_packed) next += size_;
    random_ = reinterpret_cast<std::uint32_t*>(next);
    if (needs_random) next += size_;
    gathered_low_ = reinterpret_cast<std::byte*>(next);
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
      const bool gathers_low = moved.operand == param && low_runs_ != nullptr;
      if (gathers_low) low_next_ = low_runs_->gather(gathered_low_, low_, position_, param_low, n);
      if (is_packed) moved.format->decode(tile, stored, n, beside(moved, 0));
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
        moved.format->encode(stored, tile, n, beside(moved, bits.shift));
        const bool scatters_low = moved.operand == param && low_runs_ != nullptr;
        if (scatters_low) low_runs_->scatter(gathered_low_, low_, position_, param_low, n);
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
    if (low_ != nullptr) low_ = low_runs_ == nullptr ? low_ + n * low_size : low_next_;
    if (tensor_.layout != nullptr) position_.advance(n);
  }

 private:
  static constexpr std::int64_t low_size = sizeof(std::int16_t);

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
    const Runs* runs;                // null if it is dense
    std::byte* next = nullptr;       // the next value of `data` if it is strided
    std::uint8_t* scales = nullptr;  // of the next elements; null if its format has none
    bool is_stochastic = false;
  };

  Beside beside(const Moved& moved, int shift) const {
    std::byte* const low = low_runs_ == nullptr ? low_ : gathered_low_;
    return {moved.scales, random_, shift, reinterpret_cast<std::int16_t*>(low)};
  }

  T* buffer(const Moved& moved) { return memory_ + moved.buffer * size_; }

  const Tensor& tensor_;
  Position position_;
  Tile<T> tile_ = {};
  Own own_[tile_count];
  int own_count_ = 0;
  Moved moved_[tile_count];
  int moved_count_ = 0;
  std::int64_t size_;
  std::int64_t element_;   // the index of the next one
  std::byte* gathered_;    // a buffer for packed elements that were strided
  std::uint32_t* random_;  // a buffer for hashes
  // What a split parameter lacks: the next element, as for an operand, and a buffer for what was strided.
  std::byte* low_ = nullptr;
  const Runs* low_runs_ = nullptr;
  std::byte* low_next_ = nullptr;
  std::byte* gathered_low_;
  alignas(64) T memory_[bytes / sizeof(T)];
};

}  // namespace
}  // namespace rmsprop
