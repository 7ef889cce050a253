// No byte before the first or after the last element is read or written.

#include "guarded_pages.hpp"

#if defined(RMSPROP_TESTS_HAVE_PAGES)

#include <doctest/doctest.h>

#include <cstdint>
#include <cstring>
#include <deque>
#include <string>
#include <vector>

#include "arrays.hpp"
#include "cases.hpp"
#include "oracle.hpp"
#include "rmsprop/rmsprop.hpp"

namespace {

enum class Against { front, back };  // the guard page that the elements lie against

constexpr std::int64_t longest = 1'100;

// One set of guarded pages per operand, for elements `stride` apart.
template <class T>
class OperandsAgainstGuard {
 public:
  explicit OperandsAgainstGuard(std::int64_t largest_stride) {
    for (int operand = 0; operand < rmsprop::operand_count; ++operand) {
      pages_.emplace_back(static_cast<std::size_t>(longest * largest_stride) * sizeof(T));
    }
  }

  // What differs after a step over elements `stride` apart (in elements, may be negative) that lie against a guard.
  std::string step_differs(const Case& c, const Operands<T>& initial, const Operands<T>& wanted, std::int64_t size,
                           std::int64_t stride, Against against) {
    const rmsprop::Update update = make_update(c.hyperparameters, 1);
    rmsprop::Tensor tensor;
    rmsprop::Layout layout;
    tensor.update = &update;
    tensor.size = size;
    tensor.dtype = dtype_of<T>;
    layout.ndim = 1;
    layout.shape[0] = size;
    const std::int64_t extent = size == 0 ? 0 : (size - 1) * std::abs(stride) + 1;
    for (int operand = 0; operand < rmsprop::operand_count; ++operand) {
      T* lowest = against == Against::front ? reinterpret_cast<T*>(pages_[operand].begin())
                                            : reinterpret_cast<T*>(pages_[operand].end()) - extent;
      T* first = stride > 0 ? lowest : lowest + (extent == 0 ? 0 : extent - 1);
      first_[operand] = first;
      for (std::int64_t i = 0; i < size; ++i) first[i * stride] = initial[operand][static_cast<std::size_t>(i)];
      layout.strides[operand][0] = stride * static_cast<std::int64_t>(sizeof(T));
      const bool needed = operand <= rmsprop::grad || (rmsprop::state_of(update.rule) >> operand & 1u) != 0;
      if (needed) tensor.data[operand] = reinterpret_cast<std::byte*>(first);
    }
    if (!rmsprop::normalize(layout, tensor)) tensor.layout = &layout;
    rmsprop::step({&tensor, 1}, 1);

    for (int operand = 0; operand < rmsprop::operand_count; ++operand) {
      std::vector<T> got;
      for (std::int64_t i = 0; i < size; ++i) got.push_back(first_[operand][i * stride]);
      const std::string text = difference(got.data(), wanted[operand], size, operand);
      if (!text.empty()) return text;
    }
    return "";
  }

 private:
  std::deque<GuardedPages> pages_;
  std::array<T*, rmsprop::operand_count> first_ = {};
};

template <class T>
void check_against_guards(const std::vector<Case>& cases, const std::vector<std::int64_t>& strides) {
  OperandsAgainstGuard<T> operands(3);
  const Operands<T> initial = ordinary_operands<T>(longest, 1);
  std::vector<std::int64_t> sizes = {511, 512, 513, 1'023, 1'025, longest};
  for (std::int64_t size = 0; size <= 67; ++size) sizes.push_back(size);
  for (const Case& c : cases) {
    const Operands<T> wanted = oracle_step(c.hyperparameters, 1, initial);
    on_every_instruction_set([&](const std::string& set) {
      for (const std::int64_t stride : strides) {
        for (const Against against : {Against::front, Against::back}) {
          for (const std::int64_t size : sizes) {
            CAPTURE(set);
            CAPTURE(c.name);
            CAPTURE(stride);
            CHECK(operands.step_differs(c, initial, wanted, size, stride, against) == "");
          }
        }
      }
    });
  }
}

}  // namespace

TEST_CASE_TEMPLATE("a dense step touches nothing beyond its elements, up to a guard page on either side", T, float,
                   double) {
  check_against_guards<T>(every_rule(), {1});
}

TEST_CASE_TEMPLATE("a strided step touches nothing beyond its elements, up to a guard page on either side", T, float,
                   double) {
  check_against_guards<T>({every_rule().front(), every_rule().back()}, {2, 3, -1, -2});
}

TEST_CASE_TEMPLATE("a prepared step touches nothing beyond its elements, up to a guard page on either side", T, float,
                   double) {
  std::vector<Case> cases;
  for (const bool decoupled : {false, true}) {
    for (Case c : every_rule()) {
      preparation(c.hyperparameters) = {0.5, 0.9, 0.4, true, 0.01, decoupled};
      cases.push_back(c);
    }
  }
  check_against_guards<T>(cases, {1, 2});
}

TEST_CASE("operands that the rule has no use for are not touched") {
  // They are given as null, so touching one is a segmentation fault; and they may be given without being needed.
  GuardedPages closed(4096);
  closed.close();
  const rmsprop::Update update = rmsprop::make_update(rmsprop::RMSprop{}, 1);
  GuardedOperands<float> operands(ordinary_operands<float>(100, 2), 100);
  rmsprop::Tensor tensor = operands.tensor(update);
  tensor.data[rmsprop::grad_avg] = tensor.data[rmsprop::momentum_buffer] = closed.begin();
  rmsprop::step({&tensor, 1}, 1);
  CHECK(operands.differs_from(oracle_step<float>(rmsprop::RMSprop{}, 1, ordinary_operands<float>(100, 2))) == "");
}

#endif
