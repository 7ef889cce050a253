// Layouts: what they are reduced to, and that a step over any of them does what a step over dense arrays does, element
// by logical index, and touches no byte between the elements.

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "arrays.hpp"
#include "cases.hpp"
#include "oracle.hpp"
#include "rmsprop/rmsprop.hpp"

namespace {

using Shape = std::vector<std::int64_t>;

constexpr std::array all_operands = {rmsprop::param, rmsprop::grad, rmsprop::square_avg, rmsprop::grad_avg,
                                     rmsprop::momentum_buffer};

// How an array of a given shape is laid into memory.
struct Placement {
  std::vector<int> order;  // dimensions from the slowest to the fastest; empty: as they are (C order)
  std::vector<std::int64_t>
      spread;                     // per dimension, how many times further apart than dense; 0: broadcast; empty: all 1
  std::vector<bool> reversed;     // per dimension; empty: none
  std::int64_t misalignment = 0;  // bytes off the alignment of an element
};

struct Placed {
  Shape strides;            // in bytes
  std::int64_t first = 0;   // offset of the element with index zero, in bytes
  std::int64_t extent = 0;  // bytes
};

Placed place(const Shape& shape, const Placement& placement, std::int64_t item) {
  const std::size_t ndim = shape.size();
  std::vector<int> order = placement.order;
  if (order.empty()) {
    order.resize(ndim);
    std::iota(order.begin(), order.end(), 0);
  }
  Placed placed;
  placed.strides.resize(ndim);
  placed.first = placement.misalignment;
  std::int64_t stride = item;
  std::int64_t last = 0;
  for (std::size_t k = ndim; k-- > 0;) {
    const auto d = static_cast<std::size_t>(order[k]);
    const std::int64_t spread = placement.spread.empty() ? 1 : placement.spread[d];
    const bool reversed = !placement.reversed.empty() && placement.reversed[d];
    placed.strides[d] = stride * spread;
    const std::int64_t span = std::max<std::int64_t>(shape[d] - 1, 0) * placed.strides[d];
    last += span;
    if (reversed) {
      placed.first += span;
      placed.strides[d] = -placed.strides[d];
    }
    if (spread != 0) stride *= spread * std::max<std::int64_t>(shape[d], 1);
  }
  placed.extent = placement.misalignment + last + item;
  return placed;
}

// The byte offset of every element from the one with index zero, in the order of the logical index.
std::vector<std::int64_t> element_offsets(const Shape& shape, const Shape& strides) {
  std::vector<std::int64_t> offsets;
  std::int64_t size = 1;
  for (const std::int64_t length : shape) size *= length;
  for (std::int64_t i = 0; i < size; ++i) {
    std::int64_t rest = i;
    std::int64_t offset = 0;
    for (std::size_t d = shape.size(); d-- > 0;) {
      offset += rest % shape[d] * strides[d];
      rest /= shape[d];
    }
    offsets.push_back(offset);
  }
  return offsets;
}

// The operands of one tensor, each placed in a buffer of its own that is full of values also where no element lies.
template <class T>
class PlacedOperands {
 public:
  using Placements = std::array<Placement, rmsprop::operand_count>;

  PlacedOperands(const Case& c, const Shape& shape, const Placements& placements, std::uint64_t seed)
      : hyperparameters_(c.hyperparameters), update_(make_update(c.hyperparameters, 1)), shape_(shape) {
    Random random(seed);
    for (const int operand : all_operands) {
      placed_[operand] = place(shape, placements[operand], sizeof(T));
      auto& bytes = bytes_[operand];
      bytes.resize(static_cast<std::size_t>(guard + placed_[operand].extent + guard) + sizeof(T));
      // A vector's memory is aligned to 16 bytes, so the values lie where the elements lie.
      for (std::size_t i = static_cast<std::size_t>(placements[operand].misalignment); i + sizeof(T) <= bytes.size();
           i += sizeof(T)) {
        const T value = ordinary<T>(random, operand);
        std::memcpy(bytes.data() + i, &value, sizeof(T));
      }
    }
  }

  // Strides of dimensions of length 1 mean nothing and may be anything.
  void set_strides_of_dimensions_of_one(std::int64_t stride) {
    for (const int operand : all_operands) {
      for (std::size_t d = 0; d < shape_.size(); ++d) {
        if (shape_[d] == 1) placed_[operand].strides[d] = stride;
      }
    }
  }

  // What the bindings do: the layout as NumPy states it, reduced, and left away if it is dense.
  const rmsprop::Tensor& normalized() {
    layout_ = {};
    layout_.ndim = static_cast<int>(shape_.size());
    std::copy(shape_.begin(), shape_.end(), layout_.shape.begin());
    tensor_ = {};
    for (const int operand : all_operands) {
      std::copy(placed_[operand].strides.begin(), placed_[operand].strides.end(), layout_.strides[operand].begin());
      const bool needed = operand <= rmsprop::grad || (rmsprop::state_of(update_.rule) >> operand & 1u) != 0;
      if (needed) tensor_.data[operand] = reinterpret_cast<std::byte*>(first(bytes_, operand));
    }
    tensor_.update = &update_;
    tensor_.dtype = dtype_of<T>;
    tensor_.size = 1;
    for (const std::int64_t length : shape_) tensor_.size *= length;
    dense_ = rmsprop::normalize(layout_, tensor_);
    if (!dense_) tensor_.layout = &layout_;
    return tensor_;
  }

  bool is_dense() const { return dense_; }
  const rmsprop::Layout& layout() const { return layout_; }

  // Steps, and says how memory then differs from what is wanted: every element as specified, by its logical index, and
  // every other byte as it was.
  std::string step_differs(int threads) {
    normalized();
    Buffers wanted = wanted_buffers();
    rmsprop::step({&tensor_, 1}, threads);
    for (const int operand : all_operands) {
      const auto& got = bytes_[operand];
      const auto different = std::mismatch(got.begin(), got.end(), wanted[operand].begin());
      if (different.first != got.end()) {
        return std::string(operand_name(operand)) + " differs at byte " +
               std::to_string(different.first - got.begin() - guard) + " of " + std::to_string(placed_[operand].extent);
      }
    }
    return "";
  }

 private:
  using Buffers = std::array<std::vector<unsigned char>, rmsprop::operand_count>;
  static constexpr std::int64_t guard = 256;

  unsigned char* first(Buffers& buffers, int operand) {
    return buffers[operand].data() + guard + placed_[operand].first;
  }

  Buffers wanted_buffers() {
    Buffers buffers = bytes_;
    std::array<std::vector<std::int64_t>, rmsprop::operand_count> offsets;
    Operands<T> values;
    for (const int operand : all_operands) {
      Shape strides = placed_[operand].strides;
      for (std::size_t d = 0; d < shape_.size(); ++d) {
        if (shape_[d] == 1) strides[d] = 0;
      }
      offsets[operand] = element_offsets(shape_, strides);
      for (const std::int64_t offset : offsets[operand]) {
        T value;
        std::memcpy(&value, first(buffers, operand) + offset, sizeof(T));
        values[operand].push_back(value);
      }
    }
    values = oracle_step(hyperparameters_, 1, std::move(values));
    for (const int operand : all_operands) {
      for (std::size_t i = 0; i < offsets[operand].size(); ++i) {
        std::memcpy(first(buffers, operand) + offsets[operand][i], &values[operand][i], sizeof(T));
      }
    }
    return buffers;
  }

  Hyperparameters hyperparameters_;
  rmsprop::Update update_;
  Shape shape_;
  std::array<Placed, rmsprop::operand_count> placed_;
  Buffers bytes_;
  rmsprop::Layout layout_;
  rmsprop::Tensor tensor_;
  bool dense_ = false;
};

// Every operand placed alike, but for the gradient.
std::array<Placement, rmsprop::operand_count> alike(const Placement& all, const Placement& grad) {
  return {all, grad, all, all, all};
}

struct Arrangement {
  std::string name;
  Shape shape;
  std::array<Placement, rmsprop::operand_count> placements;
  bool dense;  // nothing needs gathering
  int ndim;    // after normalize
};

std::vector<Arrangement> arrangements() {
  const Placement c_order = {};
  const Placement f_order = {{2, 1, 0}, {}, {}, 0};
  const Placement channels_last = {{0, 2, 3, 1}, {}, {}, 0};
  const Placement transposed = {{1, 0}, {}, {}, 0};
  return {
      {"C order", {4, 5, 6}, alike(c_order, c_order), true, 1},
      {"Fortran order", {4, 5, 6}, alike(f_order, f_order), true, 1},
      {"channels last", {2, 3, 4, 5}, alike(channels_last, channels_last), true, 1},
      {"transposed gradient", {37, 41}, alike(c_order, transposed), false, 2},
      {"Fortran parameter, C gradient", {4, 5, 6}, alike(f_order, c_order), false, 3},
      {"channels-last parameter, C gradient", {2, 3, 4, 5}, alike(channels_last, c_order), false, 3},
      {"one column, b[:, 0]", {100}, alike({{}, {7}, {}, 0}, {{}, {7}, {}, 0}), false, 1},
      {"one column with a dense gradient", {100}, alike({{}, {7}, {}, 0}, c_order), false, 1},
      {"a block of columns, b[:, :3]", {50, 3}, alike({{}, {4, 1}, {}, 0}, c_order), false, 2},
      {"every other row, b[::2]", {50, 4}, alike({{}, {2, 1}, {}, 0}, {{}, {2, 1}, {}, 0}), false, 2},
      {"every other element of both", {9, 8}, alike({{}, {2, 2}, {}, 0}, {{}, {2, 2}, {}, 0}), false, 2},
      {"evenly strided rows and columns", {9, 8}, alike({{}, {1, 2}, {}, 0}, {{}, {1, 2}, {}, 0}), false, 1},
      {"reversed", {77}, alike({{}, {}, {true}, 0}, {{}, {}, {true}, 0}), false, 1},
      {"reversed rows and columns", {8, 9}, alike({{}, {}, {true, true}, 0}, {{}, {}, {true, true}, 0}), false, 1},
      {"reversed rows", {8, 9}, alike({{}, {}, {true, false}, 0}, {{}, {}, {true, false}, 0}), false, 2},
      {"reversed gradient", {8, 9}, alike(c_order, {{}, {}, {true, true}, 0}), false, 1},
      {"broadcast gradient", {8, 9}, alike(c_order, {{}, {0, 1}, {}, 0}), false, 2},
      {"one gradient for all", {8, 9}, alike(c_order, {{}, {0, 0}, {}, 0}), false, 1},
      {"0-d", {}, alike(c_order, c_order), true, 1},
      {"a single element of 4 dimensions", {1, 1, 1, 1}, alike(c_order, c_order), true, 1},
      {"dimensions of 1 inside", {1, 6, 1, 7, 1}, alike(c_order, c_order), true, 1},
      {"a transposed gradient with a dimension of 1", {6, 1, 7}, alike(c_order, f_order), false, 2},
      {"misaligned", {100}, alike({{}, {}, {}, 1}, {{}, {}, {}, 3}), false, 1},
      {"misaligned gradient", {10, 10}, alike(c_order, {{}, {}, {}, 2}), false, 1},
      {"misaligned single element", {}, alike({{}, {}, {}, 1}, c_order), false, 1},
  };
}

}  // namespace

TEST_CASE_TEMPLATE("a layout is dense exactly when no operand needs gathering, and is reduced to the fewest dimensions",
                   T, float, double) {
  for (const Arrangement& a : arrangements()) {
    CAPTURE(a.name);
    PlacedOperands<T> operands(every_rule().back(), a.shape, a.placements, 1);
    operands.normalized();
    CHECK(operands.is_dense() == a.dense);
    const rmsprop::Layout& layout = operands.layout();
    CHECK(layout.ndim == a.ndim);
    bool all_dense = true;
    std::int64_t size = 1;
    for (const bool dense : layout.dense) all_dense = all_dense && dense;
    for (int d = 0; d < layout.ndim; ++d) size *= layout.shape[d];
    CHECK(all_dense == a.dense);
    CHECK(size == std::accumulate(a.shape.begin(), a.shape.end(), std::int64_t{1}, std::multiplies<>()));
  }
}

TEST_CASE("a strided gradient leaves the other operands dense") {
  PlacedOperands<float> operands(every_rule()[1], {37, 41}, alike({}, {{1, 0}, {}, {}, 0}), 1);
  operands.normalized();
  CHECK(operands.layout().dense[rmsprop::param]);
  CHECK_FALSE(operands.layout().dense[rmsprop::grad]);
  CHECK(operands.layout().dense[rmsprop::square_avg]);
}

TEST_CASE("an operand that is not there does not make a layout strided") {
  // The strides of the momentum buffer are garbage, but plain RMSprop has none.
  std::array<Placement, rmsprop::operand_count> placements = {};
  placements[rmsprop::momentum_buffer] = placements[rmsprop::grad_avg] = {{1, 0}, {3, 5}, {true, false}, 1};
  PlacedOperands<float> operands(every_rule()[1], {6, 7}, placements, 1);
  operands.normalized();
  CHECK(operands.is_dense());
  CHECK(operands.layout().ndim == 1);
}

TEST_CASE_TEMPLATE("a step over any layout equals the dense one by logical index and leaves the gaps as they are", T,
                   float, double) {
  for (const Arrangement& a : arrangements()) {
    for (const Case& rule : every_rule()) {
      for (const bool prepares : {false, true}) {
        for (const bool decoupled : {false, true}) {
          Case c = rule;
          if (prepares) preparation(c.hyperparameters) = {0.5, 0.9, 0.7, true, 0.01, decoupled};
          on_every_instruction_set([&](const std::string& set) {
            CAPTURE(set);
            CAPTURE(a.name);
            CAPTURE(c.name);
            CHECK(PlacedOperands<T>(c, a.shape, a.placements, 2).step_differs(1) == "");
          });
        }
      }
    }
  }
}

TEST_CASE("strides of dimensions of one element mean nothing") {
  for (const std::int64_t stride : {std::int64_t{0}, std::int64_t{-24}, std::int64_t{1} << 60}) {
    for (const Shape& shape : {Shape{1}, Shape{1, 5, 1}, Shape{1, 6, 1, 7, 1}}) {
      CAPTURE(stride);
      PlacedOperands<float> operands(every_rule().back(), shape, {}, 3);
      operands.set_strides_of_dimensions_of_one(stride);
      CHECK(operands.step_differs(1) == "");
      CHECK(operands.is_dense());
    }
  }
}

TEST_CASE_TEMPLATE("a long strided tensor gets the same bits on any number of threads", T, float, double) {
  const Placement transposed = {{1, 0}, {}, {}, 0};
  const Placement column = {{}, {1, 3}, {}, 0};
  const Placement reversed = {{}, {}, {true, true}, 0};
  const Placement misaligned = {{}, {}, {}, 1};
  const Shape shape = {331, 307};  // primes, so that no cut falls on the end of a row
  for (const auto& [all, grad] : {std::pair{Placement{}, transposed},
                                  {transposed, Placement{}},
                                  {column, column},
                                  {reversed, Placement{}},
                                  {misaligned, misaligned},
                                  {column, reversed}}) {
    for (const Case& c : {every_rule()[0], every_rule().back()}) {
      for (const int threads : {1, 2, 3}) {
        CAPTURE(c.name);
        CAPTURE(threads);
        CHECK(PlacedOperands<T>(c, shape, alike(all, grad), 4).step_differs(threads) == "");
      }
    }
  }
}

TEST_CASE_TEMPLATE("random layouts, another one for each operand, equal the dense step", T, float, double) {
  Random random(5);
  const std::vector<Case> cases = every_rule();
  for (int round = 0; round < 2'000; ++round) {
    Shape shape(static_cast<std::size_t>(integer(random, 0, 5)));
    for (std::int64_t& length : shape) length = integer(random, 1, round % 10 == 0 ? 7 : 4);
    std::array<Placement, rmsprop::operand_count> placements;
    for (Placement& placement : placements) {
      placement.order.resize(shape.size());
      std::iota(placement.order.begin(), placement.order.end(), 0);
      for (std::size_t i = shape.size(); i-- > 1;) {
        std::swap(placement.order[i],
                  placement.order[static_cast<std::size_t>(integer(random, 0, static_cast<std::int64_t>(i)))]);
      }
      for (std::size_t d = 0; d < shape.size(); ++d) {
        placement.spread.push_back(integer(random, 0, 3) == 0 ? integer(random, 2, 3) : 1);
        placement.reversed.push_back(integer(random, 0, 3) == 0);
      }
      if (integer(random, 0, 4) == 0) placement.misalignment = integer(random, 1, sizeof(T) - 1);
    }
    Case c = cases[static_cast<std::size_t>(round) % cases.size()];
    if (round % 3 == 0) preparation(c.hyperparameters) = {0.5, 1.0, 0.7, false, 0.01, round % 2 == 0};
    CAPTURE(round);
    CHECK(PlacedOperands<T>(c, shape, placements, static_cast<std::uint64_t>(round)).step_differs(1) == "");
  }
}

TEST_CASE("as many dimensions as there can be, none of which merge") {
  Shape shape(rmsprop::Layout::max_dims, 1);
  std::vector<std::int64_t> spread(shape.size(), 1);
  for (std::size_t d = 4; d < shape.size(); d += 5) {
    shape[d] = 2;
    if (d % 2 == 0) spread[d] = 2;
  }
  std::array<Placement, rmsprop::operand_count> placements;
  for (Placement& placement : placements) placement.spread = spread;
  placements[rmsprop::grad] = {};
  CHECK(PlacedOperands<double>(every_rule().back(), shape, placements, 6).step_differs(1) == "");
}

TEST_CASE("an array with a dimension of length 0 is no work") {
  for (const Shape& shape : {Shape{0}, Shape{3, 0}, Shape{0, 3}, Shape{2, 0, 5}}) {
    CHECK(PlacedOperands<float>(every_rule().back(), shape, {}, 7).step_differs(2) == "");
    CHECK(PlacedOperands<float>(every_rule().back(), shape, alike({}, {{}, Shape(shape.size(), 3), {}, 1}), 7)
              .step_differs(2) == "");
  }
}

TEST_CASE_TEMPLATE("operands interleaved in one buffer do not disturb each other", T, float, double) {
  // Element i of operand k is at 5 * i + k, as in an array of structures.
  const std::int64_t size = 20'011;
  for (const Case& c : every_rule()) {
    const Operands<T> initial = ordinary_operands<T>(size, 8);
    const Operands<T> wanted = oracle_step(c.hyperparameters, 1, initial);
    std::vector<T> buffer(static_cast<std::size_t>(size * rmsprop::operand_count));
    const auto at = [&](int operand, std::int64_t i) -> T& {
      return buffer[static_cast<std::size_t>(i * rmsprop::operand_count + operand)];
    };
    const rmsprop::Update update = make_update(c.hyperparameters, 1);
    rmsprop::Layout layout;
    rmsprop::Tensor tensor;
    layout.ndim = 1;
    layout.shape[0] = size;
    for (const int operand : all_operands) {
      for (std::int64_t i = 0; i < size; ++i) at(operand, i) = initial[operand][static_cast<std::size_t>(i)];
      layout.strides[operand][0] = rmsprop::operand_count * static_cast<std::int64_t>(sizeof(T));
      tensor.data[operand] = reinterpret_cast<std::byte*>(&at(operand, 0));
    }
    tensor.update = &update;
    tensor.layout = &layout;
    tensor.size = size;
    tensor.dtype = dtype_of<T>;
    REQUIRE_FALSE(rmsprop::normalize(layout, tensor));
    rmsprop::step({&tensor, 1}, 2);
    for (const int operand : all_operands) {
      std::vector<T> got;
      for (std::int64_t i = 0; i < size; ++i) got.push_back(at(operand, i));
      CAPTURE(c.name);
      CHECK(difference(got.data(), wanted[operand], size, operand) == "");
    }
  }
}
