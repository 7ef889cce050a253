// What is asked of all gradients before a step: their norm, and whether they are finite.

#include <doctest/doctest.h>

#include <algorithm>
#include <cfenv>
#include <cmath>
#include <cstdint>
#include <deque>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "cases.hpp"
#include "guarded_pages.hpp"
#include "oracle.hpp"
#include "rmsprop/gradients.hpp"
#include "rmsprop/rmsprop.hpp"

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();

rmsprop::Update update_with(double grad_scale) {
  rmsprop::RMSprop h;
  h.prepare.grad_scale = grad_scale;
  return rmsprop::make_update(h, 1);
}

// A tensor of which nothing but the gradient is there.
template <class T>
rmsprop::Tensor tensor_of(T* grad, std::int64_t size, const rmsprop::Update& update) {
  rmsprop::Tensor tensor;
  tensor.data[rmsprop::grad] = reinterpret_cast<std::byte*>(grad);
  tensor.update = &update;
  tensor.size = size;
  tensor.dtype = dtype_of<T>;
  return tensor;
}

template <class T>
std::vector<T> random_gradients(std::int64_t size, std::uint64_t seed) {
  Random random(seed);
  std::vector<T> gradients(static_cast<std::size_t>(size));
  for (T& g : gradients) g = ordinary<T>(random, rmsprop::grad);
  return gradients;
}

// The specification of the global norm, one operation at a time: volatile keeps the order and the rounding.
template <class T>
void add_sum_of_squares(volatile double& total, const std::vector<T>& gradients, double grad_scale) {
  for (std::size_t begin = 0; begin < gradients.size(); begin += 4096) {
    volatile double partials[16] = {};
    for (std::size_t i = 0; i < 4096 && begin + i < gradients.size(); ++i) {
      const volatile T scaled = static_cast<T>(grad_scale) * gradients[begin + i];
      const volatile double square = static_cast<double>(scaled) * static_cast<double>(scaled);
      partials[i % 16] = partials[i % 16] + square;
    }
    for (const int width : {8, 4, 2, 1}) {
      for (int i = 0; i < width; ++i) partials[i] = partials[i] + partials[i + width];
    }
    total = total + partials[0];
  }
}

template <class T>
double oracle_sum_of_squares(const std::vector<T>& gradients, double grad_scale) {
  volatile double total = 0.0;
  add_sum_of_squares(total, gradients, grad_scale);
  return total;
}

}  // namespace

TEST_CASE_TEMPLATE("the sum of squares has the specified bits for any length on every instruction set", T, float,
                   double) {
  std::vector<std::int64_t> sizes = {511, 512, 513, 4'095, 4'096, 4'097, 8'192, 12'345, 100'003};
  for (std::int64_t size = 0; size <= 67; ++size) sizes.push_back(size);
  for (const std::int64_t size : sizes) {
    std::vector<T> gradients = random_gradients<T>(size, 1);
    for (const double grad_scale : {1.0, 1.0 / 3.0}) {
      const rmsprop::Update update = update_with(grad_scale);
      const rmsprop::Tensor tensor = tensor_of(gradients.data(), size, update);
      const double wanted = oracle_sum_of_squares(gradients, grad_scale);
      on_every_instruction_set([&](const std::string& set) {
        for (const int threads : {1, 2, 3}) {
          CAPTURE(set);
          CAPTURE(size);
          CAPTURE(threads);
          CHECK(rmsprop::sum_of_squares({&tensor, 1}, threads) == wanted);
        }
      });
    }
  }
}

TEST_CASE("the sum of squares of many tensors of both types is taken in their order on any number of threads") {
  const rmsprop::Update update = update_with(0.7);
  std::deque<std::vector<float>> singles;
  std::deque<std::vector<double>> doubles;
  std::vector<rmsprop::Tensor> tensors;
  volatile double wanted = 0.0;
  for (std::int64_t i = 0; i < 1'500; ++i) {  // more blocks than the engine sums in one round
    const std::int64_t size = i == 700 ? 3'000'000 : i * 37 % 9'001;
    if (i % 3 == 0) {
      doubles.push_back(random_gradients<double>(size, static_cast<std::uint64_t>(i)));
      tensors.push_back(tensor_of(doubles.back().data(), size, update));
      add_sum_of_squares(wanted, doubles.back(), 0.7);
    } else {
      singles.push_back(random_gradients<float>(size, static_cast<std::uint64_t>(i)));
      tensors.push_back(tensor_of(singles.back().data(), size, update));
      add_sum_of_squares(wanted, singles.back(), 0.7);
    }
  }
  on_every_instruction_set([&](const std::string& set) {
    for (const int threads : {1, 2, 3, 16}) {
      CAPTURE(set);
      CAPTURE(threads);
      CHECK(rmsprop::sum_of_squares(tensors, threads) == wanted);
    }
  });
}

TEST_CASE("the sum of squares goes by index, wherever the gradients lie") {
  constexpr std::int64_t rows = 123;
  constexpr std::int64_t columns = 77;
  const rmsprop::Update update = update_with(1.0);
  const std::vector<float> by_index = random_gradients<float>(rows * columns, 2);
  const double wanted = oracle_sum_of_squares(by_index, 1.0);
  struct Strides {
    std::int64_t row, column, first;  // in elements
  };
  for (const Strides& strides : {Strides{columns, 1, 0},
                                 {1, rows, 0},
                                 {2 * columns, 2, 0},
                                 {-columns, -1, rows * columns - 1},
                                 {-1, rows, rows - 1}}) {
    const std::int64_t row = strides.row;
    const std::int64_t column = strides.column;
    const std::int64_t first = strides.first;
    std::vector<float> memory(2 * by_index.size(), std::numeric_limits<float>::quiet_NaN());
    rmsprop::Layout layout;
    layout.ndim = 2;
    layout.shape[0] = rows;
    layout.shape[1] = columns;
    layout.strides[rmsprop::param][0] = 4;  // a parameter in Fortran order, which a step would walk in that order
    layout.strides[rmsprop::param][1] = rows * 4;
    layout.strides[rmsprop::grad][0] = row * 4;
    layout.strides[rmsprop::grad][1] = column * 4;
    for (std::int64_t i = 0; i < rows; ++i) {
      for (std::int64_t j = 0; j < columns; ++j) {
        memory[static_cast<std::size_t>(first + i * row + j * column)] =
            by_index[static_cast<std::size_t>(i * columns + j)];
      }
    }
    rmsprop::Tensor tensor = tensor_of(memory.data() + first, rows * columns, update);
    if (!rmsprop::normalize_in_order(layout, tensor)) tensor.layout = &layout;
    CAPTURE(row);
    CAPTURE(column);
    for (const int threads : {1, 3}) CHECK(rmsprop::sum_of_squares({&tensor, 1}, threads) == wanted);
    CHECK(rmsprop::is_finite(tensor));  // NaN lies in the gaps alone
  }
}

TEST_CASE("squares that float32 cannot hold are summed in float64") {
  const rmsprop::Update update = update_with(1.0);
  for (const float g : {std::numeric_limits<float>::max(), std::numeric_limits<float>::denorm_min(), 1e-30f}) {
    std::vector<float> gradients(100, g);
    const rmsprop::Tensor tensor = tensor_of(gradients.data(), 100, update);
    const double sum = rmsprop::sum_of_squares({&tensor, 1}, 1);
    CHECK(sum == doctest::Approx(100.0 * static_cast<double>(g) * static_cast<double>(g)).epsilon(1e-12));
    CHECK(sum > 0.0);
    CHECK(std::isfinite(sum));
  }
}

TEST_CASE("a host's rounding mode changes neither the sum of squares nor clip_scale, and no flag stays") {
  const rmsprop::Update update = update_with(1.0 / 3.0);
  std::vector<float> gradients = random_gradients<float>(50'000, 3);
  const rmsprop::Tensor tensor = tensor_of(gradients.data(), 50'000, update);
  const double wanted = oracle_sum_of_squares(gradients, 1.0 / 3.0);
  const double wanted_scale = rmsprop::clip_scale(wanted, 0.1);
  for (const int mode : {FE_TONEAREST, FE_UPWARD, FE_TOWARDZERO}) {
    std::fesetround(mode);
    std::feclearexcept(FE_ALL_EXCEPT);
    const double sum = rmsprop::sum_of_squares({&tensor, 1}, 2);
    const double scale = rmsprop::clip_scale(sum, 0.1);
    const bool finite = rmsprop::is_finite(tensor) && rmsprop::find_nonfinite({&tensor, 1}, 2) == 1;
    const int flags = std::fetestexcept(FE_ALL_EXCEPT);
    const int mode_after = std::fegetround();
    std::fesetround(FE_TONEAREST);
    CHECK(sum == wanted);
    CHECK(scale == wanted_scale);
    CHECK(finite);
    CHECK(flags == 0);
    CHECK(mode_after == mode);
  }
}

TEST_CASE("clip_scale is min(1, clip_norm / (norm + 1e-6)), and NaN if the norm is") {
  CHECK(rmsprop::clip_scale(4.0, 1.0) == 1.0 / (2.0 + 1e-6));
  CHECK(rmsprop::clip_scale(4.0, 2.0) == 2.0 / (2.0 + 1e-6));
  CHECK(rmsprop::clip_scale(4.0, 3.0) == 1.0);
  CHECK(rmsprop::clip_scale(0.0, 1.0) == 1.0);
  CHECK(rmsprop::clip_scale(4.0, 0.0) == 0.0);
  CHECK(rmsprop::clip_scale(4.0, infinity) == 1.0);
  CHECK(rmsprop::clip_scale(infinity, 1.0) == 0.0);
  CHECK(std::isnan(rmsprop::clip_scale(not_a_number, 1.0)));
}

TEST_CASE("a clip_scale set afterwards gives the bits of one that was there from the beginning") {
  const std::int64_t size = 1'000;
  for (const double clip_scale : {1.0, 0.3}) {
    Hyperparameters hyperparameters = rmsprop::RMSprop{};
    preparation(hyperparameters).clip_scale = clip_scale;
    Operands<float> operands = ordinary_operands<float>(size, 4);
    const Operands<float> wanted = oracle_step(hyperparameters, 1, operands);
    rmsprop::Update update = rmsprop::make_update(rmsprop::RMSprop{}, 1);
    rmsprop::set_clip_scale(update, clip_scale);
    rmsprop::Tensor tensor = tensor_of(operands[rmsprop::grad].data(), size, update);
    tensor.data[rmsprop::param] = reinterpret_cast<std::byte*>(operands[rmsprop::param].data());
    tensor.data[rmsprop::square_avg] = reinterpret_cast<std::byte*>(operands[rmsprop::square_avg].data());
    rmsprop::step({&tensor, 1}, 1);
    CHECK(operands == wanted);
  }
}

TEST_CASE_TEMPLATE("is_finite finds the only non-finite gradient wherever it is", T, float, double) {
  const rmsprop::Update update = update_with(1.0);
  for (const std::int64_t size : {1, 2, 15, 16, 17, 67, 512, 513, 1'100}) {
    std::vector<T> gradients = random_gradients<T>(size, 5);
    const rmsprop::Tensor tensor = tensor_of(gradients.data(), size, update);
    on_every_instruction_set([&](const std::string& set) {
      CAPTURE(set);
      CAPTURE(size);
      CHECK(rmsprop::is_finite(tensor));
      for (const T poison : {static_cast<T>(not_a_number), static_cast<T>(infinity), static_cast<T>(-infinity)}) {
        for (T& g : gradients) {
          const T before = g;
          g = poison;
          CHECK_FALSE(rmsprop::is_finite(tensor));
          g = before;
        }
      }
    });
  }
}

TEST_CASE("is_finite takes zeros, subnormals and the largest numbers as finite, and looks at the scaled gradient") {
  std::vector<float> gradients = {0.0f, -0.0f, std::numeric_limits<float>::denorm_min(),
                                  std::numeric_limits<float>::max(), std::numeric_limits<float>::lowest()};
  const rmsprop::Update as_it_is = update_with(1.0);
  const rmsprop::Update doubled = update_with(2.0);
  CHECK(rmsprop::is_finite(tensor_of(gradients.data(), 5, as_it_is)));
  CHECK_FALSE(rmsprop::is_finite(tensor_of(gradients.data(), 5, doubled)));
  CHECK(rmsprop::is_finite(tensor_of(gradients.data(), 0, as_it_is)));
}

TEST_CASE("find_nonfinite gives the first tensor that is not finite, on any number of threads") {
  const rmsprop::Update update = update_with(1.0);
  std::deque<std::vector<float>> gradients;
  std::vector<rmsprop::Tensor> tensors;
  for (std::int64_t i = 0; i < 40; ++i) {
    gradients.push_back(random_gradients<float>(i == 20 ? 400'000 : i * 997 % 5'003, static_cast<std::uint64_t>(i)));
    tensors.push_back(tensor_of(gradients.back().data(), std::ssize(gradients.back()), update));
  }
  const auto found_is = [&](std::size_t wanted) {
    on_every_instruction_set([&](const std::string& set) {
      for (const int threads : {1, 2, 3, 16}) {
        CAPTURE(set);
        CAPTURE(threads);
        CHECK(rmsprop::find_nonfinite(tensors, threads) == wanted);
      }
    });
  };
  found_is(tensors.size());
  CHECK(rmsprop::find_nonfinite({}, 2) == 0);
  // From the last to the first, so that there are ever more of them after the one that is looked for.
  for (std::size_t i = gradients.size(); i-- > 0;) {
    if (gradients[i].empty()) continue;
    const std::size_t at = i % 2 == 0 ? gradients[i].size() - 1 : gradients[i].size() / 2;
    gradients[i][at] = static_cast<float>(i % 3 == 0 ? not_a_number : infinity);
    CAPTURE(i);
    found_is(i);
  }
}

TEST_CASE("find_nonfinite looks at every part of a long gradient") {
  const rmsprop::Update update = update_with(1.0);
  std::vector<float> gradient = random_gradients<float>(2'000'000, 1);
  const rmsprop::Tensor tensor = tensor_of(gradient.data(), std::ssize(gradient), update);
  for (std::size_t at = gradient.size(); at-- > 0; at -= std::min<std::size_t>(at, 30'000)) {
    CAPTURE(at);
    const float before = std::exchange(gradient[at], static_cast<float>(not_a_number));
    for (const int threads : {1, 2}) CHECK(rmsprop::find_nonfinite({&tensor, 1}, threads) == 0);
    gradient[at] = before;
  }
  CHECK(rmsprop::find_nonfinite({&tensor, 1}, 1) == 1);
}

TEST_CASE("find_nonfinite looks at the scaled gradient") {
  std::vector<double> gradients(10, std::numeric_limits<double>::max());
  const rmsprop::Update as_it_is = update_with(1.0);
  const rmsprop::Update doubled = update_with(2.0);
  const std::vector<rmsprop::Tensor> tensors = {tensor_of(gradients.data(), 10, as_it_is),
                                                tensor_of(gradients.data(), 10, doubled)};
  CHECK(rmsprop::find_nonfinite(tensors, 1) == 1);
}

#if defined(RMSPROP_TESTS_HAVE_PAGES)
TEST_CASE_TEMPLATE("gradients are looked at up to a guard page on either side and not beyond", T, float, double) {
  const GuardedPages pages(100 * sizeof(T));
  const rmsprop::Update update = update_with(1.0);
  on_every_instruction_set([&](const std::string& set) {
    for (std::int64_t size = 0; size <= 100; ++size) {
      CAPTURE(set);
      const std::vector<T> gradients = random_gradients<T>(size, 6);
      T* const at_the_end = reinterpret_cast<T*>(pages.end()) - size;
      for (T* const data : {reinterpret_cast<T*>(pages.begin()), at_the_end}) {
        std::copy(gradients.begin(), gradients.end(), data);
        const rmsprop::Tensor tensor = tensor_of(data, size, update);
        CHECK(rmsprop::sum_of_squares({&tensor, 1}, 1) == oracle_sum_of_squares(gradients, 1.0));
        CHECK(rmsprop::is_finite(tensor));
      }
    }
  });
}
#endif
