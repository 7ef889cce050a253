// Tensors made from the arrays of a C++ program.

#include <doctest/doctest.h>

#include <array>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

#include "rmsprop/rmsprop.hpp"

namespace {

std::string message_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "nothing thrown";
}

const rmsprop::Update plain = rmsprop::make_update(rmsprop::RMSprop{}, 1);
const rmsprop::Update with_momentum = rmsprop::make_update(rmsprop::RMSprop{.momentum = 0.9}, 1);

}  // namespace

TEST_CASE_TEMPLATE("a dense tensor steps the arrays it was made of", T, float, double) {
  const rmsprop::Update update =
      rmsprop::make_update(rmsprop::RMSprop{.lr = 1.0, .alpha = 0.5, .eps = 0.0, .centered = true, .momentum = 0.5}, 1);
  std::vector<T> w = {1, 2}, v(2), m(2), b(2);
  const std::vector<T> g = {2, -4};
  const std::array tensors = {
      rmsprop::dense_tensor({.param = w, .grad = g, .square_avg = v, .grad_avg = m, .momentum_buffer = b}, &update)};
  rmsprop::step(tensors);
  CHECK(v == std::vector<T>{2, 8});
  CHECK(m == std::vector<T>{1, -2});
  CHECK(b == std::vector<T>{2, -2});  // g / sqrt(v - m * m)
  CHECK(w == std::vector<T>{-1, 4});
}

TEST_CASE("a dense tensor may be empty") {
  std::vector<float> none;
  const std::array tensors = {rmsprop::dense_tensor({.param = none, .grad = none, .square_avg = none}, &plain)};
  rmsprop::step(tensors);
  CHECK(tensors[0].size == 0);
}

TEST_CASE("a dense tensor is refused, with the name of the array at fault, if a size does not fit") {
  std::vector<double> w(3), g(3), v(3), shorter(2), longer(4);
  CHECK(message_of([&] { rmsprop::dense_tensor({.param = w, .grad = shorter, .square_avg = v}, &plain); }) ==
        "grad: got 2 elements, wanted 3 as in param");
  CHECK(message_of([&] { rmsprop::dense_tensor({.param = w, .grad = longer, .square_avg = v}, &plain); }) ==
        "grad: got 4 elements, wanted 3 as in param");
  CHECK(message_of([&] { rmsprop::dense_tensor({.param = w, .grad = g, .square_avg = shorter}, &plain); }) ==
        "square_avg: got 2 elements, wanted 3 as in param");
  CHECK(message_of([&] {
          rmsprop::dense_tensor({.param = w, .grad = g, .square_avg = v, .grad_avg = shorter}, &plain);
        }) == "grad_avg: got 2 elements, wanted 3 as in param");
  CHECK(message_of([&] { rmsprop::dense_tensor({.param = w, .grad = g, .square_avg = v}, &with_momentum); }) ==
        "momentum_buffer: got 0 elements, wanted 3 as in param");
}

TEST_CASE("a dense tensor is refused if its arrays overlap") {
  std::vector<float> memory(10), v(4);
  const std::span<float> w(memory.data(), 4), shifted(memory.data() + 3, 4), behind(memory.data() + 4, 4);
  CHECK(message_of([&] { rmsprop::dense_tensor({.param = w, .grad = w, .square_avg = v}, &plain); }) ==
        "param and grad overlap");
  CHECK(message_of([&] { rmsprop::dense_tensor({.param = w, .grad = v, .square_avg = shifted}, &plain); }) ==
        "param and square_avg overlap");
  CHECK_NOTHROW(rmsprop::dense_tensor({.param = w, .grad = v, .square_avg = behind}, &plain));
}

TEST_CASE("a dense tensor is refused without an update") {
  std::vector<float> w(1), g(1), v(1);
  CHECK(message_of([&] { rmsprop::dense_tensor({.param = w, .grad = g, .square_avg = v}, nullptr); }) ==
        "update: got null, wanted an Update");
}
