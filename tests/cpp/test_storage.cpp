// Storage formats: every operand has one of its own, whatever those of the others are.

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "arrays.hpp"
#include "cases.hpp"
#include "oracle.hpp"
#include "rmsprop/rmsprop.hpp"
#include "storage/bfloat16.hpp"
#include "storage/float16.hpp"

namespace {

using Packings = decltype(rmsprop::Tensor::packing);

constexpr std::array all_packings = {rmsprop::Packing::none, rmsprop::Packing::bfloat16, rmsprop::Packing::float16};

// A format of 16 bits as the list of its numbers, from which the nearest is looked up.
class Format16 {
 public:
  explicit Format16(int mantissa_bits) : infinity_((0x7FFF >> mantissa_bits) << mantissa_bits) {
    const int bias = (1 << (14 - mantissa_bits)) - 1;
    for (int word = 0; word <= infinity_; ++word) {  // what infinity stands for is the number it begins to be at
      const int exponent = word >> mantissa_bits;
      const int mantissa = word & ((1 << mantissa_bits) - 1);
      numbers_.push_back(exponent == 0 ? std::ldexp(mantissa, 1 - bias - mantissa_bits)
                                       : std::ldexp(mantissa + (1 << mantissa_bits), exponent - bias - mantissa_bits));
    }
  }

  float decode(std::uint16_t word) const {
    const int magnitude = word & 0x7FFF;
    double number = std::numeric_limits<double>::quiet_NaN();
    if (magnitude < infinity_) number = numbers_[static_cast<std::size_t>(magnitude)];
    if (magnitude == infinity_) number = std::numeric_limits<double>::infinity();
    return static_cast<float>((word & 0x8000) != 0 ? -number : number);
  }

  std::uint16_t encode(float value) const {
    const int sign = std::signbit(value) ? 0x8000 : 0;
    if (std::isnan(value)) return static_cast<std::uint16_t>(sign | 0x7FFF);
    const double magnitude = std::fabs(static_cast<double>(value));
    auto above = std::lower_bound(numbers_.begin(), numbers_.end(), magnitude);
    if (above == numbers_.end()) return static_cast<std::uint16_t>(sign | infinity_);
    auto word = static_cast<int>(above - numbers_.begin());
    if (*above != magnitude) {
      const double up = *above - magnitude;
      const double down = magnitude - *(above - 1);
      if (down < up || (down == up && word % 2 != 0)) --word;
    }
    return static_cast<std::uint16_t>(sign | word);
  }

 private:
  int infinity_;
  std::vector<double> numbers_;
};

const Format16& format_of(rmsprop::Packing packing) {
  static const Format16 bfloat16(7), float16(10);
  return packing == rmsprop::Packing::bfloat16 ? bfloat16 : float16;
}

// An array of numbers that are stored as a packing says, `spread` places apart.
class Stored {
 public:
  Stored(const std::vector<float>& numbers, rmsprop::Packing packing, std::int64_t spread)
      : packing_(packing), step_(static_cast<std::size_t>(spread * item())), bytes_(numbers.size() * step_ + 1, gap) {
    for (std::size_t i = 0; i < numbers.size(); ++i) {
      if (packing == rmsprop::Packing::none) {
        std::memcpy(&bytes_[i * step_], &numbers[i], sizeof(float));
      } else {
        const std::uint16_t word = format_of(packing).encode(numbers[i]);
        std::memcpy(&bytes_[i * step_], &word, sizeof word);
      }
    }
  }

  std::int64_t item() const { return packing_ == rmsprop::Packing::none ? 4 : 2; }
  std::byte* data() { return reinterpret_cast<std::byte*>(bytes_.data()); }

  std::vector<float> numbers() const {
    std::vector<float> numbers(bytes_.size() / step_);
    for (std::size_t i = 0; i < numbers.size(); ++i) {
      if (packing_ == rmsprop::Packing::none) {
        std::memcpy(&numbers[i], &bytes_[i * step_], sizeof(float));
      } else {
        std::uint16_t word = 0;
        std::memcpy(&word, &bytes_[i * step_], sizeof word);
        numbers[i] = format_of(packing_).decode(word);
      }
    }
    return numbers;
  }

  // Whether all bytes between the elements, and the one behind them, are as they were.
  bool gaps_are_untouched() const {
    for (std::size_t i = 0; i < bytes_.size(); ++i) {
      const bool is_element = i % step_ < static_cast<std::size_t>(item()) && i + 1 < bytes_.size();
      if (!is_element && bytes_[i] != gap) return false;
    }
    return true;
  }

 private:
  static constexpr unsigned char gap = 0xA5;

  rmsprop::Packing packing_;
  std::size_t step_;
  std::vector<unsigned char> bytes_;
};

std::vector<float> rounded(const std::vector<float>& numbers, rmsprop::Packing packing) {
  return Stored(numbers, packing, 1).numbers();
}

// Steps operands that are stored so, and says how the outcome differs from the specification: decode, step, encode.
std::string step_differs(const Case& c, const Packings& packings, std::int64_t size, std::int64_t spread, int threads) {
  Operands<float> initial = ordinary_operands<float>(size, 11);
  std::vector<Stored> arrays;
  const rmsprop::Update update = make_update(c.hyperparameters, 1);
  rmsprop::Layout layout;
  rmsprop::Tensor tensor;
  layout.ndim = 1;
  layout.shape[0] = size;
  for (int operand = 0; operand < rmsprop::operand_count; ++operand) {
    initial[operand] = rounded(initial[operand], packings[operand]);
    arrays.emplace_back(initial[operand], packings[operand], spread);
    layout.strides[operand][0] = spread * arrays.back().item();
  }
  for (int operand = 0; operand < rmsprop::operand_count; ++operand) {
    const bool needed = operand <= rmsprop::grad || (rmsprop::state_of(update.rule) >> operand & 1u) != 0;
    if (needed) tensor.data[operand] = arrays[static_cast<std::size_t>(operand)].data();
  }
  tensor.update = &update;
  tensor.size = size;
  tensor.packing = packings;
  if (!rmsprop::normalize(layout, tensor)) tensor.layout = &layout;
  rmsprop::step({&tensor, 1}, threads);

  const Operands<float> wanted = oracle_step(c.hyperparameters, 1, initial);
  for (int operand = 0; operand < rmsprop::operand_count; ++operand) {
    const Stored& array = arrays[static_cast<std::size_t>(operand)];
    const std::string text =
        difference(array.numbers().data(), rounded(wanted[operand], packings[operand]), size, operand);
    if (!text.empty()) return text;
    if (!array.gaps_are_untouched()) return std::string(operand_name(operand)) + ": a byte outside was written";
  }
  return "";
}

std::string describe(const Packings& packings) {
  std::string text;
  for (const rmsprop::Packing packing : packings) text += std::to_string(static_cast<int>(packing));
  return text;
}

}  // namespace

TEST_CASE("a parameter and a gradient of different formats give the bits of decoding, stepping and encoding") {
  for (const rmsprop::Packing param : all_packings) {
    for (const rmsprop::Packing grad : all_packings) {
      for (Case c : every_rule()) {
        for (const bool prepares : {false, true}) {
          if (prepares) preparation(c.hyperparameters) = {0.5, 0.9, 0.7, true, 0.01, false};
          on_every_instruction_set([&](const std::string& set) {
            for (const std::int64_t spread : {1, 3}) {
              CAPTURE(set);
              CAPTURE(c.name);
              CAPTURE(describe({param, grad}));
              CAPTURE(spread);
              CHECK(step_differs(c, {param, grad}, 1'100, spread, 1) == "");
            }
          });
        }
      }
    }
  }
}

TEST_CASE("every operand can be stored in a format of its own, whatever those of the others are") {
  Random random(12);
  for (int round = 0; round < 300; ++round) {
    Packings packings;
    for (rmsprop::Packing& packing : packings) packing = all_packings[static_cast<std::size_t>(integer(random, 0, 2))];
    Case c = every_rule()[static_cast<std::size_t>(round) % every_rule().size()];
    if (round % 3 == 0) preparation(c.hyperparameters) = {0.5, 1.0, 0.7, false, 0.01, round % 2 == 0};
    on_every_instruction_set([&](const std::string& set) {
      CAPTURE(set);
      CAPTURE(c.name);
      CAPTURE(describe(packings));
      CHECK(step_differs(c, packings, integer(random, 0, 1'100), integer(random, 1, 3), 1) == "");
    });
  }
}

TEST_CASE("packed operands get the same bits on any number of threads") {
  const Packings packings = {rmsprop::Packing::bfloat16, rmsprop::Packing::none, rmsprop::Packing::float16,
                             rmsprop::Packing::bfloat16, rmsprop::Packing::none};
  for (const std::int64_t spread : {1, 2}) {
    for (const int threads : {1, 2, 3})
      CHECK(step_differs(every_rule().back(), packings, 50'003, spread, threads) == "");
  }
}

TEST_CASE("the format of an operand that is not there means nothing") {
  const Packings packings = {rmsprop::Packing::none, rmsprop::Packing::none, rmsprop::Packing::none,
                             rmsprop::Packing::bfloat16, rmsprop::Packing::float16};
  CHECK(step_differs({"adagrad", rmsprop::Adagrad{}}, packings, 1'100, 1, 1) == "");
}

TEST_CASE("a NaN stays one in 16 bits, even if all that tells it from infinity is cut off") {
  for (const std::uint32_t bits : {0x7F800001U, 0xFF800001U, 0x7FFFFFFFU}) {
    CAPTURE(bits);
    const auto nan = std::bit_cast<float>(bits);
    CHECK(std::isnan(rmsprop::BFloat16::decode(rmsprop::BFloat16::encode(nan))));
    CHECK(std::isnan(rmsprop::Float16::decode(rmsprop::Float16::encode(nan))));
  }
}
