// What happens to a gradient, or to the parameter, before the rule sees it.

#include <doctest/doctest.h>

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "arrays.hpp"
#include "cases.hpp"
#include "oracle.hpp"
#include "rmsprop/rmsprop.hpp"

namespace {

// Every stage alone and with every other one.
std::vector<rmsprop::Preparation> every_preparation() {
  std::vector<rmsprop::Preparation> all;
  for (const double grad_scale : {1.0, 1.0 / 3.0, -2.0}) {
    for (const double clip_scale : {1.0, 0.7}) {
      for (const double clip_value : {std::numeric_limits<double>::infinity(), 0.25, 0.0}) {
        for (const bool maximize : {false, true}) {
          for (const double weight_decay : {0.0, 0.01}) {
            for (const bool decoupled : {false, true}) {
              all.push_back({grad_scale, clip_scale, clip_value, maximize, weight_decay, decoupled});
            }
          }
        }
      }
    }
  }
  return all;
}

std::string describe(const rmsprop::Preparation& p) {
  std::ostringstream text;
  text << "grad_scale " << p.grad_scale << ", clip_scale " << p.clip_scale << ", clip_value " << p.clip_value
       << (p.maximize ? ", maximize" : "") << ", weight_decay " << p.weight_decay
       << (p.decoupled_weight_decay ? ", decoupled" : "");
  return text.str();
}

}  // namespace

TEST_CASE_TEMPLATE("every preparation gives the specified bits with every rule on every instruction set", T, float,
                   double) {
  const std::int64_t longest = 1'100;  // some tiles, whatever their size is
  const Operands<T> initial = ordinary_operands<T>(longest, 1);
  for (const rmsprop::Preparation& p : every_preparation()) {
    for (Case c : every_rule()) {
      preparation(c.hyperparameters) = p;
      const Operands<T> wanted = oracle_step(c.hyperparameters, 1, initial);
      on_every_instruction_set([&](const std::string& set) {
        for (const std::int64_t size : {0, 1, 7, 31, 64, 67, 511, 512, 513, 1'024, 1'100}) {
          CAPTURE(set);
          CAPTURE(c.name);
          CAPTURE(describe(p));
          CHECK(step_differs(c, 1, initial, wanted, size, 1) == "");
        }
      });
    }
  }
}

TEST_CASE_TEMPLATE("every preparation gives the specified bits for special values", T, float, double) {
  const Operands<T> initial = special_operands<T>();
  for (const rmsprop::Preparation& p : every_preparation()) {
    Case c = {"rmsprop", rmsprop::RMSprop{}};
    preparation(c.hyperparameters) = p;
    const Operands<T> wanted = oracle_step(c.hyperparameters, 1, initial);
    on_every_instruction_set([&](const std::string& set) {
      CAPTURE(set);
      CAPTURE(describe(p));
      CHECK(step_differs(c, 1, initial, wanted, std::ssize(initial[0]), 1) == "");
    });
  }
}

TEST_CASE_TEMPLATE("a prepared step gives the same bits on any number of threads", T, float, double) {
  const std::int64_t size = 100'003;
  const Operands<T> initial = ordinary_operands<T>(size, 2);
  for (Case c : every_rule()) {
    for (const bool decoupled : {false, true}) {
      preparation(c.hyperparameters) = {0.5, 0.9, 0.4, true, 0.01, decoupled};
      const Operands<T> wanted = oracle_step(c.hyperparameters, 1, initial);
      for (const int threads : {1, 2, 3}) {
        CAPTURE(c.name);
        CAPTURE(decoupled);
        CAPTURE(threads);
        CHECK(step_differs(c, 1, initial, wanted, size, threads) == "");
      }
    }
  }
}

TEST_CASE("clip_value leaves a NaN gradient a NaN") {
  rmsprop::RMSprop h;
  h.prepare.clip_value = 1.0;
  Operands<float> initial = ordinary_operands<float>(40, 3);
  initial[rmsprop::grad].assign(40, std::numeric_limits<float>::quiet_NaN());
  on_every_instruction_set([&](const std::string& set) {
    CAPTURE(set);
    GuardedOperands<float> operands(initial, 40);
    const rmsprop::Update update = rmsprop::make_update(h, 1);
    const rmsprop::Tensor tensor = operands.tensor(update);
    rmsprop::step({&tensor, 1}, 1);
    for (int i = 0; i < 40; ++i) CHECK(std::isnan(operands.data(rmsprop::param)[i]));
  });
}

TEST_CASE("weight decay 0 leaves an infinite parameter infinite") {
  // 0 * inf is NaN: a stage that is not asked for must not run.
  for (const bool decoupled : {false, true}) {
    for (const double grad_scale : {1.0, 2.0}) {
      rmsprop::Adagrad h;
      h.prepare.decoupled_weight_decay = decoupled;
      h.prepare.grad_scale = grad_scale;
      Operands<double> initial = ordinary_operands<double>(9, 4);
      initial[rmsprop::param].assign(9, std::numeric_limits<double>::infinity());
      GuardedOperands<double> operands(initial, 9);
      const rmsprop::Update update = rmsprop::make_update(h, 1);
      const rmsprop::Tensor tensor = operands.tensor(update);
      rmsprop::step({&tensor, 1}, 1);
      for (int i = 0; i < 9; ++i) CHECK(operands.data(rmsprop::param)[i] == std::numeric_limits<double>::infinity());
    }
  }
}
