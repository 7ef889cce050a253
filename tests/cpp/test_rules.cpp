// The formulas: the bits of the specification, for every rule, element type and instruction set.

#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "arrays.hpp"
#include "cases.hpp"
#include "oracle.hpp"
#include "rmsprop/rmsprop.hpp"

namespace {

constexpr std::int64_t longest_awkward = 67;  // four AVX-512 vectors of float32 and a remainder

using rmsprop::step;

}  // namespace

TEST_CASE_TEMPLATE("every formula gives the specified bits at every awkward length on every instruction set", T, float,
                   double) {
  const Operands<T> initial = ordinary_operands<T>(longest_awkward, 1);
  for (const Case& c : every_formula()) {
    const Operands<T> wanted = oracle_step(c.hyperparameters, 2, initial);
    on_every_instruction_set([&](const std::string& set) {
      for (const int threads : {1, 2, 3}) {
        for (std::int64_t size = 0; size <= longest_awkward; ++size) {
          CAPTURE(set);
          CAPTURE(c.name);
          CAPTURE(threads);
          CHECK(step_differs(c, 2, initial, wanted, size, threads) == "");
        }
      }
    });
  }
}

TEST_CASE_TEMPLATE("every formula gives the specified bits for special values on every instruction set", T, float,
                   double) {
  const Operands<T> initial = special_operands<T>();
  for (const Case& c : every_formula()) {
    const Operands<T> wanted = oracle_step(c.hyperparameters, 2, initial);
    on_every_instruction_set([&](const std::string& set) {
      CAPTURE(set);
      CAPTURE(c.name);
      CHECK(step_differs(c, 2, initial, wanted, std::ssize(initial[0]), 1) == "");
    });
  }
}

TEST_CASE_TEMPLATE("every formula gives the specified bits for extreme hyperparameters", T, float, double) {
  const Operands<T> initial = special_operands<T>();
  const auto check_all = [&](const std::string& what, auto change) {
    for (Case c : every_formula()) {
      std::visit(change, c.hyperparameters);
      const Operands<T> wanted = oracle_step(c.hyperparameters, 1, initial);
      on_every_instruction_set([&](const std::string& set) {
        CAPTURE(set);
        CAPTURE(what);
        CAPTURE(c.name);
        CHECK(step_differs(c, 1, initial, wanted, std::ssize(initial[0]), 1) == "");
      });
    }
  };
  const auto of_rmsprop = [](auto change) {
    return [change](auto& h) {
      if constexpr (requires { h.alpha; }) change(h);
    };
  };
  check_all("lr 0", [](auto& h) { h.lr = 0.0; });
  check_all("lr 1e30", [](auto& h) { h.lr = 1e30; });
  check_all("lr 1e-40, a float32 subnormal", [](auto& h) { h.lr = 1e-40; });
  check_all("eps 0", [](auto& h) { h.eps = 0.0; });
  check_all("eps 1e-40, a float32 subnormal", [](auto& h) { h.eps = 1e-40; });
  check_all("eps 1e300, infinite in float32", [](auto& h) { h.eps = 1e300; });
  check_all("alpha 0", of_rmsprop([](auto& h) { h.alpha = 0.0; }));
  check_all("alpha 1", of_rmsprop([](auto& h) { h.alpha = 1.0; }));
  check_all("alpha almost 1", of_rmsprop([](auto& h) { h.alpha = std::nextafter(1.0, 0.0); }));
}

TEST_CASE_TEMPLATE("many steps in a row keep the specified bits", T, float, double) {
  constexpr std::int64_t size = 333;
  for (const Case& c : every_rule()) {
    on_every_instruction_set([&](const std::string& set) {
      CAPTURE(set);
      CAPTURE(c.name);
      Operands<T> wanted = ordinary_operands<T>(size, 2);
      GuardedOperands<T> operands(wanted, size);
      for (std::int64_t t = 1; t <= 200; ++t) {
        const rmsprop::Update update = make_update(c.hyperparameters, t);
        const rmsprop::Tensor tensor = operands.tensor(update);
        step({&tensor, 1}, 1);
        wanted = oracle_step(c.hyperparameters, t, std::move(wanted));
      }
      CHECK(operands.differs_from(wanted) == "");
    });
  }
}

TEST_CASE("bias correction gives the specified bits at the first steps") {
  const Operands<float> initial = ordinary_operands<float>(100, 3);
  for (const std::int64_t t : {1, 2, 3}) {
    for (const Case& c : every_formula()) {
      CAPTURE(t);
      CAPTURE(c.name);
      CHECK(step_differs(c, t, initial, oracle_step(c.hyperparameters, t, initial), 100, 1) == "");
    }
  }
}

TEST_CASE("a non-finite gradient changes the class of its own element only") {
  constexpr std::int64_t size = 67;
  for (const float poison : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    for (const Case& c : every_rule()) {
      for (std::int64_t where = 0; where < size; ++where) {
        Operands<float> initial = ordinary_operands<float>(size, 4);
        initial[rmsprop::grad][static_cast<std::size_t>(where)] = poison;
        GuardedOperands<float> operands(initial, size);
        const rmsprop::Update update = make_update(c.hyperparameters, 1);
        const rmsprop::Tensor tensor = operands.tensor(update);
        step({&tensor, 1}, 1);
        for (std::int64_t i = 0; i < size; ++i) {
          if (std::isfinite(operands.data(rmsprop::square_avg)[i]) != (i != where)) {
            FAIL_CHECK(c.name << ": square_avg[" << i << "] with poison at " << where);
          }
          if (i != where && !std::isfinite(operands.data(rmsprop::param)[i])) {
            FAIL_CHECK(c.name << ": param[" << i << "] with poison at " << where);
          }
        }
      }
    }
  }
}

TEST_CASE("a variance that rounding made negative counts as zero") {
  // With bias correction at t = 1 and fresh averages, v/(1-alpha) - (m/(1-alpha))^2 is zero up to rounding.
  rmsprop::RMSprop h;
  h.centered = true;
  h.bias_correction = true;
  constexpr std::int64_t size = 10'000;
  Operands<float> initial = ordinary_operands<float>(size, 5);
  initial[rmsprop::square_avg].assign(size, 0.0f);
  initial[rmsprop::grad_avg].assign(size, 0.0f);
  const Case c = {"centered", h};
  std::int64_t negative = 0;
  const Operands<float> wanted = oracle_step(h, 1, initial);
  for (std::size_t i = 0; i < size; ++i) {
    const float k = static_cast<float>(1.0 / (1.0 - h.alpha));
    const float mean = wanted[rmsprop::grad_avg][i] * k;
    const float square = mean * mean;
    negative += wanted[rmsprop::square_avg][i] * k - square < 0.0f;
    CHECK(std::isfinite(wanted[rmsprop::param][i]));
  }
  REQUIRE(negative > 100);  // otherwise this test shows nothing
  on_every_instruction_set([&](const std::string& set) {
    CAPTURE(set);
    CHECK(step_differs(c, 1, initial, wanted, size, 1) == "");
  });
}

TEST_CASE("lr 0 leaves the parameter as it is while the state advances") {
  for (Case c : every_rule()) {
    CAPTURE(c.name);
    std::visit([](auto& h) { h.lr = 0.0; }, c.hyperparameters);
    const Operands<double> initial = ordinary_operands<double>(50, 6);
    GuardedOperands<double> operands(initial, 50);
    const rmsprop::Update update = make_update(c.hyperparameters, 1);
    const rmsprop::Tensor tensor = operands.tensor(update);
    step({&tensor, 1}, 1);
    CHECK(difference(operands.data(rmsprop::param), initial[rmsprop::param], 50, rmsprop::param) == "");
    for (std::size_t i = 0; i < 50; ++i) {
      CHECK(operands.data(rmsprop::square_avg)[i] != initial[rmsprop::square_avg][i]);
    }
  }
}

TEST_CASE("RMSprop's average is the exponentially weighted sum of the squared gradients") {
  // v_t = (1 - alpha) * sum over i < t of alpha^(t - 1 - i) * g_i^2, from v_0 = 0.
  const rmsprop::RMSprop h;
  std::vector<double> gradients;
  double w = 0.0, g = 0.0, v = 0.0;
  for (std::int64_t t = 1; t <= 20; ++t) {
    gradients.push_back(g = std::sin(static_cast<double>(t)));
    const rmsprop::Update update = rmsprop::make_update(h, t);
    rmsprop::Tensor tensor;
    tensor.data[rmsprop::param] = reinterpret_cast<std::byte*>(&w);
    tensor.data[rmsprop::grad] = reinterpret_cast<std::byte*>(&g);
    tensor.data[rmsprop::square_avg] = reinterpret_cast<std::byte*>(&v);
    tensor.update = &update;
    tensor.size = 1;
    tensor.dtype = rmsprop::DType::float64;
    step({&tensor, 1}, 1);

    double unrolled = 0.0;
    for (std::size_t i = 0; i < gradients.size(); ++i) {
      const double age = static_cast<double>(gradients.size() - 1 - i);
      unrolled += (1.0 - h.alpha) * std::pow(h.alpha, age) * gradients[i] * gradients[i];
    }
    CHECK(v == doctest::Approx(unrolled).epsilon(1e-13));
  }
}

TEST_CASE("Adagrad's sum is never below RMSprop's average of the same gradients") {
  constexpr std::int64_t size = 100;
  for (const double alpha : {0.0, 0.5, 0.9, 1.0}) {
    rmsprop::RMSprop h;
    h.alpha = alpha;
    Operands<double> by_rmsprop = ordinary_operands<double>(size, 8);
    by_rmsprop[rmsprop::square_avg].assign(size, 0.0);
    GuardedOperands<double> average(by_rmsprop, size), total(by_rmsprop, size);
    Random random(9);
    for (std::int64_t t = 1; t <= 50; ++t) {
      for (std::int64_t i = 0; i < size; ++i) {
        average.data(rmsprop::grad)[i] = total.data(rmsprop::grad)[i] = ordinary<double>(random, rmsprop::grad);
      }
      const rmsprop::Update updates[] = {rmsprop::make_update(h, t), rmsprop::make_update(rmsprop::Adagrad{}, t)};
      const rmsprop::Tensor tensors[] = {average.tensor(updates[0]), total.tensor(updates[1])};
      step(tensors, 1);
      for (std::int64_t i = 0; i < size; ++i) {
        CHECK(total.data(rmsprop::sum)[i] >= average.data(rmsprop::square_avg)[i]);
      }
    }
  }
}
