// How much of a thread's stack the engine needs: threads may be made with little of it. POSIX only.

#if defined(__unix__) || defined(__APPLE__)

#include <doctest/doctest.h>
#include <pthread.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "arrays.hpp"
#include "cases.hpp"
#include "rmsprop/rmsprop.hpp"

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define RMSPROP_TESTS_GROW_STACK
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define RMSPROP_TESTS_GROW_STACK
#endif

#if !defined(RMSPROP_TESTS_GROW_STACK)  // sanitizers put guards between variables

namespace {

// Bytes of stack that a new thread has used by the time that body has run on it.
template <class Body>
std::size_t stack_used(Body body) {
  constexpr std::size_t size = 256 << 10;
  constexpr unsigned char untouched = 0xC5;
  struct alignas(4096) Stack {
    unsigned char bytes[size];
  };
  const auto stack = std::make_unique<Stack>();
  std::fill_n(stack->bytes, size, untouched);
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  REQUIRE(pthread_attr_setstack(&attributes, stack->bytes, size) == 0);
  pthread_t thread;
  const auto run = [](void* context) -> void* {
    (*static_cast<Body*>(context))();
    return nullptr;
  };
  REQUIRE(pthread_create(&thread, &attributes, run, &body) == 0);
  pthread_join(thread, nullptr);
  pthread_attr_destroy(&attributes);
  const auto* const lowest = std::find_if(stack->bytes, stack->bytes + size, [](auto b) { return b != untouched; });
  return static_cast<std::size_t>(stack->bytes + size - lowest);
}

// The stack that a call needs beyond what a thread uses that does nothing.
template <class Body>
std::size_t stack_needed(Body body) {
  body();  // finds the functions of shared libraries, which is done once and takes stack of its own
  return stack_used(body) - stack_used([] {});
}

// Arrays with a gap after each element, which the engine needs the most buffers for.
template <class T>
class StridedOperands {
 public:
  StridedOperands(const Case& c, decltype(rmsprop::Tensor::packing) packings)
      : update_(make_update(c.hyperparameters, 1)) {
    tensor_.update = &update_;
    tensor_.size = size;
    tensor_.dtype = dtype_of<T>;
    tensor_.packing = packings;
    layout_.ndim = in_order_.ndim = 1;
    layout_.shape[0] = in_order_.shape[0] = size;
    for (int operand = 0; operand < rmsprop::operand_count; ++operand) {
      memory_[operand].resize(2 * size, T(0));
      tensor_.data[operand] = reinterpret_cast<std::byte*>(memory_[operand].data());
      layout_.strides[operand][0] = in_order_.strides[operand][0] = 2 * tensor_.item_size_of(operand);
    }
    REQUIRE_FALSE(rmsprop::normalize(layout_, tensor_));
    REQUIRE_FALSE(rmsprop::normalize_in_order(in_order_, tensor_));
  }

  rmsprop::Tensor tensor() const { return with(layout_); }
  rmsprop::Tensor gradient() const { return with(in_order_); }

 private:
  static constexpr std::size_t size = 10'000;

  rmsprop::Tensor with(const rmsprop::Layout& layout) const {
    rmsprop::Tensor tensor = tensor_;
    tensor.layout = &layout;
    return tensor;
  }

  rmsprop::Update update_;
  rmsprop::Layout layout_, in_order_;
  rmsprop::Tensor tensor_;
  Operands<T> memory_;
};

template <class T>
void check_stack(decltype(rmsprop::Tensor::packing) packings) {
  // A thread of 16 KiB, the least there can be, has 12 KiB left after what the C library keeps there.
  constexpr std::size_t most = 10 << 10;
  Case c = every_rule().back();
  preparation(c.hyperparameters) = {0.5, 0.9, 0.7, true, 0.01, false};
  const StridedOperands<T> operands(c, packings);
  const rmsprop::Tensor tensor = operands.tensor();
  const rmsprop::Tensor gradient = operands.gradient();
  on_every_instruction_set([&](const std::string& set) {
    CAPTURE(set);
    CHECK(stack_needed([&] { rmsprop::step({&tensor, 1}, 1); }) <= most);
    CHECK(stack_needed([&] { rmsprop::sum_of_squares({&gradient, 1}, 1); }) <= most);
    CHECK(stack_needed([&] { rmsprop::find_nonfinite({&gradient, 1}, 1); }) <= most);
    CHECK(stack_needed([&] { rmsprop::is_finite(gradient); }) <= most);
  });
}

}  // namespace

TEST_CASE("ten kilobytes of stack are enough for any step, norm and look at gradients") {
  constexpr auto none = rmsprop::Packing::none;
  constexpr auto bfloat16 = rmsprop::Packing::bfloat16;
  constexpr auto float16 = rmsprop::Packing::float16;
  check_stack<double>({none, none, none, none, none});
  check_stack<float>({none, none, none, none, none});
  check_stack<float>({bfloat16, float16, bfloat16, float16, bfloat16});
}

#endif
#endif
