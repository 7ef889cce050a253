// More than 2^31 elements, in little memory. Linux only.

#if defined(__linux__)

#include <doctest/doctest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <new>
#include <string>
#include <vector>

#include "arrays.hpp"
#include "cases.hpp"
#include "oracle.hpp"
#include "rmsprop/rmsprop.hpp"

namespace {

constexpr std::int64_t many = (std::int64_t{1} << 31) + 2 * rmsprop::norm_block;

// Where elements have memory of their own: at the beginning, in the middle, and behind 2^31. Reversed, these places are
// the same. They consist of whole pages, and of whole blocks of the global norm.
struct Window {
  std::int64_t begin, end;
};
constexpr std::int64_t window_size = 2 * rmsprop::norm_block;
constexpr std::array<Window, 3> windows = {
    {{0, window_size}, {many / 2 - window_size, many / 2 + window_size}, {many - window_size, many}}};

// `many` floats at consecutive addresses. Outside the windows all of them share the same few pages, so a step must
// leave them as they are: then it matters neither how often it visits a page nor which thread does.
class ManyElements {
 public:
  explicit ManyElements(float shared_value) : shared_value_(shared_value) {
    const int file = memfd_create("shared pages", 0);
    begin_ = static_cast<std::byte*>(map(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1));
    if (ftruncate(file, shared_bytes) != 0) throw std::bad_alloc();
    for (std::int64_t at = 0; at < bytes; at += shared_bytes) {
      map(begin_ + at, std::min(shared_bytes, bytes - at), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file);
    }
    close(file);
    for (const Window& window : windows) {
      map(begin_ + window.begin * item, (window.end - window.begin) * item, PROT_READ | PROT_WRITE,
          MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1);
    }
    std::fill_n(data() + window_size, shared_count, shared_value_);  // every shared page once
  }
  ~ManyElements() { munmap(begin_, bytes); }
  ManyElements(const ManyElements&) = delete;
  ManyElements& operator=(const ManyElements&) = delete;

  float* data() const { return reinterpret_cast<float*>(begin_); }
  std::byte* bytes_at(std::int64_t element) const { return begin_ + element * item; }

  bool shared_pages_are_untouched() const {
    const float* first = data() + window_size;
    return std::all_of(first, first + shared_count, [&](float value) { return value == shared_value_; });
  }

 private:
  static constexpr std::int64_t item = sizeof(float);
  static constexpr std::int64_t bytes = many * item;
  static constexpr std::int64_t shared_bytes = std::int64_t{1} << 24;
  static constexpr std::int64_t shared_count = shared_bytes / item;

  static void* map(void* at, std::int64_t size, int protection, int flags, int file) {
    void* memory = mmap(at, static_cast<std::size_t>(size), protection, flags, file, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    return memory;
  }

  float shared_value_;
  std::byte* begin_;
};

// Adagrad leaves an element alone that has no gradient.
struct ManyOperands {
  ManyElements param{1.0f}, grad{0.0f}, sum{1.0f};

  ManyOperands() {
    Random random(3);
    for (const Window& window : windows) {
      for (std::int64_t i = window.begin; i < window.end; ++i) {
        param.data()[i] = ordinary<float>(random, rmsprop::param);
        grad.data()[i] = ordinary<float>(random, rmsprop::grad);
        sum.data()[i] = ordinary<float>(random, rmsprop::sum);
      }
    }
  }

  rmsprop::Tensor tensor(const rmsprop::Update& update, std::int64_t size) const {
    rmsprop::Tensor tensor;
    tensor.data = {param.bytes_at(0), grad.bytes_at(0), sum.bytes_at(0)};
    tensor.update = &update;
    tensor.size = size;
    return tensor;
  }

  // The elements of the windows, one window after the other; the gradient that belongs to each may be elsewhere.
  template <class GradIndex>
  Operands<float> in_windows(GradIndex grad_index) const {
    Operands<float> values;
    for (const Window& window : windows) {
      for (std::int64_t i = window.begin; i < window.end; ++i) {
        values[rmsprop::param].push_back(param.data()[i]);
        values[rmsprop::grad].push_back(grad.data()[grad_index(i)]);
        values[rmsprop::sum].push_back(sum.data()[i]);
      }
    }
    for (const int unused : {rmsprop::grad_avg, rmsprop::momentum_buffer}) {
      values[unused].resize(values[rmsprop::param].size());
    }
    return values;
  }

  bool shared_pages_are_untouched() const {
    return param.shared_pages_are_untouched() && grad.shared_pages_are_untouched() && sum.shared_pages_are_untouched();
  }
};

// Names the first difference among the elements of the windows, the last `left_alone` of which no step has visited.
std::string differs(const Operands<float>& got, Operands<float> wanted, const Operands<float>& before,
                    std::int64_t left_alone) {
  for (int operand = 0; operand < rmsprop::operand_count; ++operand) {
    std::copy(before[operand].end() - left_alone, before[operand].end(), wanted[operand].end() - left_alone);
    const std::string text = difference(got[operand].data(), wanted[operand], std::ssize(got[operand]), operand);
    if (!text.empty()) return text;
  }
  return "";
}

std::int64_t in_place(std::int64_t i) { return i; }
std::int64_t reversed(std::int64_t i) { return many - 1 - i; }

}  // namespace

TEST_CASE("more than 2^31 elements get the specified bits up to the last") {
  constexpr std::int64_t left_alone = 3;  // so that the last vector is not full
  const Hyperparameters hyperparameters = rmsprop::Adagrad{};
  const rmsprop::Update update = make_update(hyperparameters, 1);
  const ManyOperands operands;
  for (const int threads : {1, 3}) {
    CAPTURE(threads);
    const Operands<float> before = operands.in_windows(in_place);
    const rmsprop::Tensor tensor = operands.tensor(update, many - left_alone);
    rmsprop::step({&tensor, 1}, threads);
    const Operands<float> wanted = oracle_step<float>(hyperparameters, 1, before);
    CHECK(differs(operands.in_windows(in_place), wanted, before, left_alone) == "");
    CHECK(operands.shared_pages_are_untouched());
  }
}

TEST_CASE("more than 2^31 elements in another order than their gradients get the specified bits up to the last") {
  rmsprop::Adagrad adagrad;
  adagrad.prepare.grad_scale = 0.3;
  const Hyperparameters hyperparameters = adagrad;
  const rmsprop::Update update = make_update(hyperparameters, 1);
  const ManyOperands operands;
  const Operands<float> before = operands.in_windows(reversed);
  rmsprop::Tensor tensor = operands.tensor(update, many);
  tensor.data[rmsprop::grad] = operands.grad.bytes_at(many - 1);
  rmsprop::Layout layout;
  layout.ndim = 1;
  layout.shape[0] = many;
  for (const int operand : {rmsprop::param, rmsprop::sum}) layout.strides[operand][0] = sizeof(float);
  layout.strides[rmsprop::grad][0] = -static_cast<std::int64_t>(sizeof(float));
  REQUIRE(!rmsprop::normalize(layout, tensor));
  tensor.layout = &layout;
  rmsprop::step({&tensor, 1}, 2);
  const Operands<float> wanted = oracle_step<float>(hyperparameters, 1, before);
  CHECK(differs(operands.in_windows(reversed), wanted, before, 0) == "");
  CHECK(operands.shared_pages_are_untouched());
}

TEST_CASE("the sum of squares of more than 2^31 gradients counts them up to the last, and so does is_finite") {
  const rmsprop::Update update = rmsprop::make_update(rmsprop::Adagrad{}, 1);
  const ManyElements grad(0.0f);
  std::vector<rmsprop::Tensor> pieces;  // blocks of zeros add nothing
  Random random(4);
  for (const Window& window : windows) {
    for (std::int64_t i = window.begin; i < window.end; ++i) grad.data()[i] = ordinary<float>(random, rmsprop::grad);
    rmsprop::Tensor piece;
    piece.data[rmsprop::grad] = grad.bytes_at(window.begin);
    piece.update = &update;
    piece.size = window.end - window.begin;
    pieces.push_back(piece);
  }
  rmsprop::Tensor tensor = pieces[0];
  tensor.size = many;
  CHECK(rmsprop::sum_of_squares({&tensor, 1}, 2) == rmsprop::sum_of_squares(pieces, 1));
  CHECK(rmsprop::is_finite(tensor));
  grad.data()[many - 1] = std::numeric_limits<float>::infinity();
  CHECK(!rmsprop::is_finite(tensor));
}

#endif
