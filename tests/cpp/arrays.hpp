// Arrays that notice what a step does to them.
#pragma once

#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <sstream>
#include <string>
#include <vector>

#include "cases.hpp"
#include "oracle.hpp"
#include "rmsprop/rmsprop.hpp"

inline const char* operand_name(int operand) {
  constexpr std::array names = {"param", "grad", "square_avg", "grad_avg", "momentum_buffer"};
  return names[static_cast<std::size_t>(operand)];
}

// What is promised: the same bits, except that of a NaN only that it is one.
template <class T>
bool same_bits(T a, T b) {
  return std::memcmp(&a, &b, sizeof(T)) == 0 || (std::isnan(a) && std::isnan(b));
}

// Empty if the first elements of `wanted` are at `got`; otherwise names the first that is not.
template <class T>
std::string difference(const T* got, const std::vector<T>& wanted, std::int64_t size, int operand) {
  if (size == 0 || std::memcmp(got, wanted.data(), static_cast<std::size_t>(size) * sizeof(T)) == 0) return "";
  for (std::int64_t i = 0; i < size; ++i) {
    const T want = wanted[static_cast<std::size_t>(i)];
    if (same_bits(got[i], want)) continue;
    std::ostringstream text;
    text << operand_name(operand) << "[" << i << "] of " << size << ": got " << std::hexfloat << got[i] << ", wanted "
         << want;
    return text.str();
  }
  return "";
}

// The operands of a tensor of `size` elements, each a dense run that begins some elements after a cache line and lies
// between two runs of guard bytes. Only those that the update needs are given to the engine.
template <class T>
class GuardedOperands {
 public:
  using Offsets = std::array<int, rmsprop::operand_count>;

  GuardedOperands(const Operands<T>& initial, std::int64_t size, const Offsets& offsets = {}) : size_(size) {
    for (int operand = 0; operand < rmsprop::operand_count; ++operand) {
      auto& bytes = bytes_[operand];
      bytes.assign(bytes_of(size) + 3 * guard + cache_line, guard_byte);
      const auto address = reinterpret_cast<std::uintptr_t>(bytes.data()) + guard;
      const std::size_t to_line = (cache_line - address % cache_line) % cache_line;
      begin_[operand] = guard + to_line + bytes_of(offsets[operand]);
      if (size > 0) std::memcpy(data(operand), initial[operand].data(), bytes_of(size));
    }
  }

  T* data(int operand) { return reinterpret_cast<T*>(bytes_[operand].data() + begin_[operand]); }
  const T* data(int operand) const { return reinterpret_cast<const T*>(bytes_[operand].data() + begin_[operand]); }

  rmsprop::Tensor tensor(const rmsprop::Update& update) {
    rmsprop::Tensor tensor;
    for (int operand = 0; operand < rmsprop::operand_count; ++operand) {
      const bool needed = operand <= rmsprop::grad || (rmsprop::state_of(update.rule) >> operand & 1u) != 0;
      if (needed) tensor.data[operand] = reinterpret_cast<std::byte*>(data(operand));
    }
    tensor.update = &update;
    tensor.size = size_;
    tensor.dtype = dtype_of<T>;
    return tensor;
  }

  // Empty if the operands hold what is wanted (its first `size` elements) and nothing beside them was written.
  std::string differs_from(const Operands<T>& wanted) const {
    for (int operand = 0; operand < rmsprop::operand_count; ++operand) {
      const std::string text = difference(data(operand), wanted[operand], size_, operand);
      if (!text.empty()) return text;
      const auto& bytes = bytes_[operand];
      const std::size_t end = begin_[operand] + bytes_of(size_);
      for (std::size_t i = 0; i < bytes.size(); ++i) {
        if (i == begin_[operand] && i < end) i = end;
        if (bytes[i] != guard_byte) return std::string(operand_name(operand)) + ": a byte outside was written";
      }
    }
    return "";
  }

 private:
  static constexpr std::size_t guard = 256;  // more than any vector, so that a stray one lands in it
  static constexpr std::size_t cache_line = 64;
  static constexpr unsigned char guard_byte = 0xA5;
  static std::size_t bytes_of(std::int64_t elements) { return static_cast<std::size_t>(elements) * sizeof(T); }

  std::int64_t size_;
  std::array<std::vector<unsigned char>, rmsprop::operand_count> bytes_;
  std::array<std::size_t, rmsprop::operand_count> begin_ = {};
};

// Steps fresh copies of the first `size` elements and says how the outcome differs from what is wanted, if at all.
template <class T>
std::string step_differs(const Case& c, std::int64_t t, const Operands<T>& initial, const Operands<T>& wanted,
                         std::int64_t size, int threads, const typename GuardedOperands<T>::Offsets& offsets = {}) {
  GuardedOperands<T> operands(initial, size, offsets);
  const rmsprop::Update update = make_update(c.hyperparameters, t);
  const rmsprop::Tensor tensor = operands.tensor(update);
  rmsprop::step({&tensor, 1}, threads);
  return operands.differs_from(wanted);
}
