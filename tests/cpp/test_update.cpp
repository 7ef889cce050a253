// From hyperparameters to coefficients, and what is refused on the way.

#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "cases.hpp"
#include "rmsprop/rmsprop.hpp"

namespace {

using rmsprop::Adagrad;
using rmsprop::RMSprop;
using rmsprop::Rule;

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();

// The message with which the hyperparameters are refused, or "" if they are not.
template <class H, class Change>
std::string refusal(Change change) {
  H h;
  change(h);
  try {
    rmsprop::check(h);
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "";
}

std::string text(double value) {
  std::ostringstream stream;
  stream << value;
  return stream.str();
}

template <class H>
struct Argument {
  const char* name;
  double& (*of)(H&);
};

const std::vector<Argument<RMSprop>> not_negative_of_rmsprop = {
    {"lr", [](RMSprop& h) -> double& { return h.lr; }},
    {"alpha", [](RMSprop& h) -> double& { return h.alpha; }},
    {"eps", [](RMSprop& h) -> double& { return h.eps; }},
    {"momentum", [](RMSprop& h) -> double& { return h.momentum; }},
    {"weight_decay", [](RMSprop& h) -> double& { return h.prepare.weight_decay; }},
};
const std::vector<Argument<Adagrad>> not_negative_of_adagrad = {
    {"lr", [](Adagrad& h) -> double& { return h.lr; }},
    {"lr_decay", [](Adagrad& h) -> double& { return h.lr_decay; }},
    {"eps", [](Adagrad& h) -> double& { return h.eps; }},
    {"weight_decay", [](Adagrad& h) -> double& { return h.prepare.weight_decay; }},
};

template <class H>
void check_not_negative(const std::vector<Argument<H>>& arguments) {
  for (const Argument<H>& argument : arguments) {
    for (const double bad : {-1.0, -1e-300, not_a_number, infinity, -infinity}) {
      CHECK(refusal<H>([&](H& h) { argument.of(h) = bad; }) ==
            std::string(argument.name) + ": got " + text(bad) + ", wanted a finite number >= 0");
    }
    for (const double good : {0.0, 1e-300, 1.0}) {
      CAPTURE(argument.name);
      CHECK(refusal<H>([&](H& h) { argument.of(h) = good; }) == "");
    }
  }
}

template <class H>
void check_preparation_is_checked() {
  for (const double bad : {not_a_number, infinity, -infinity}) {
    CHECK(refusal<H>([&](H& h) { h.prepare.grad_scale = bad; }) ==
          "grad_scale: got " + text(bad) + ", wanted a finite number");
  }
  for (const double bad : {not_a_number, -1.0, -infinity}) {
    CHECK(refusal<H>([&](H& h) { h.prepare.clip_value = bad; }) ==
          "clip_value: got " + text(bad) + ", wanted a number >= 0");
  }
  CHECK(refusal<H>([](H& h) { h.prepare.grad_scale = -2.0; }) == "");
  CHECK(refusal<H>([](H& h) { h.prepare.clip_value = 0.0; }) == "");
  CHECK(refusal<H>([](H& h) { h.prepare.clip_value = infinity; }) == "");
}

// The formula that a coefficient must follow, evaluated in long double where that is wider.
double correction(double alpha, std::int64_t t) {
  return static_cast<double>(1.0L / (1.0L - std::pow(static_cast<long double>(alpha), static_cast<long double>(t))));
}

}  // namespace

TEST_CASE("check refuses what no step could use and names the argument, what was found and what was wanted") {
  check_not_negative(not_negative_of_rmsprop);
  check_not_negative(not_negative_of_adagrad);
  check_preparation_is_checked<RMSprop>();
  check_preparation_is_checked<Adagrad>();
}

TEST_CASE("check refuses an alpha above 1") {
  CHECK(refusal<RMSprop>([](RMSprop& h) { h.alpha = 1.5; }) == "alpha: got 1.5, wanted a number from 0 to 1");
  CHECK(refusal<RMSprop>([](RMSprop& h) { h.alpha = std::nextafter(1.0, 2.0); }) != "");
  CHECK(refusal<RMSprop>([](RMSprop& h) { h.alpha = 1.0; }) == "");
}

TEST_CASE("check refuses nesterov without momentum") {
  const std::string message = refusal<RMSprop>([](RMSprop& h) { h.nesterov = true; });
  CHECK(message.starts_with("nesterov: got True with momentum 0, wanted"));
  CHECK(refusal<RMSprop>([](RMSprop& h) {
          h.nesterov = true;
          h.momentum = 0.9;
        }) == "");
}

TEST_CASE("the defaults pass check") {
  CHECK(refusal<RMSprop>([](RMSprop&) {}) == "");
  CHECK(refusal<Adagrad>([](Adagrad&) {}) == "");
}

TEST_CASE("hyperparameters choose their rule, and the rule its state") {
  constexpr unsigned averages = 1u << rmsprop::square_avg;
  constexpr unsigned mean = 1u << rmsprop::grad_avg;
  constexpr unsigned buffer = 1u << rmsprop::momentum_buffer;
  const std::vector<std::pair<Rule, unsigned>> wanted = {
      {Rule::adagrad, averages},
      {Rule::rmsprop, averages},
      {Rule::rmsprop_momentum, averages | buffer},
      {Rule::rmsprop_nesterov, averages | buffer},
      {Rule::rmsprop_centered, averages | mean},
      {Rule::rmsprop_centered_momentum, averages | mean | buffer},
      {Rule::rmsprop_centered_nesterov, averages | mean | buffer},
  };
  const std::vector<Case> cases = every_rule();
  REQUIRE(cases.size() == rmsprop::rule_count);
  REQUIRE(wanted.size() == rmsprop::rule_count);
  for (std::size_t i = 0; i < cases.size(); ++i) {
    CAPTURE(cases[i].name);
    CHECK(make_update(cases[i].hyperparameters, 1).rule == wanted[i].first);
    CHECK(rmsprop::state_of(wanted[i].first) == wanted[i].second);
  }
}

TEST_CASE("bias correction follows 1 / (1 - alpha^t) up to the last steps") {
  RMSprop h;
  h.bias_correction = true;
  for (const double alpha : {0.0, 0.5, 0.9, 0.99, 0.999}) {
    h.alpha = alpha;
    for (const std::int64_t t : {1, 2, 3, 4, 5, 7, 10, 31, 100, 1'000, 65'537}) {
      CAPTURE(alpha);
      CAPTURE(t);
      CHECK(rmsprop::make_update(h, t).coefficients.correction == doctest::Approx(correction(alpha, t)).epsilon(1e-11));
    }
    for (const std::int64_t t : {(1LL << 24) + 1, (1LL << 31) + 1, std::numeric_limits<long long>::max()}) {
      CHECK(rmsprop::make_update(h, t).coefficients.correction == 1.0);
    }
  }
  h.bias_correction = false;
  CHECK(rmsprop::make_update(h, 1).coefficients.correction == 1.0);
}

TEST_CASE("the step count is exact past 2^24 and 2^31") {
  Adagrad h;
  h.lr = 1.0;
  h.lr_decay = 1.0;  // clr = 1 / t
  for (const std::int64_t t : {1LL, 2LL, (1LL << 24) + 1, (1LL << 31) + 1, (1LL << 33) + 3, (1LL << 53) - 1}) {
    CAPTURE(t);
    CHECK(rmsprop::make_update(h, t).coefficients.lr_inside == 1.0 / static_cast<double>(t));
  }
}

TEST_CASE("an update depends on the step exactly with bias correction or lr_decay") {
  RMSprop h;
  Adagrad a;
  CHECK_FALSE(rmsprop::depends_on_step(h));
  CHECK_FALSE(rmsprop::depends_on_step(a));
  h.bias_correction = true;
  a.lr_decay = 0.1;
  CHECK(rmsprop::depends_on_step(h));
  CHECK(rmsprop::depends_on_step(a));
}

TEST_CASE("a gradient that is used as it is needs no stage") {
  CHECK_FALSE(rmsprop::make_update(RMSprop{}, 1).prepares_grad);
  CHECK_FALSE(rmsprop::make_update(RMSprop{}, 1).decays_param);
  CHECK_FALSE(rmsprop::make_update(Adagrad{}, 1).prepares_grad);
  RMSprop h;
  h.prepare.weight_decay = 0.1;
  h.prepare.decoupled_weight_decay = true;
  CHECK_FALSE(rmsprop::make_update(h, 1).prepares_grad);
  CHECK(rmsprop::make_update(h, 1).decays_param);
  h.prepare.decoupled_weight_decay = false;
  CHECK(rmsprop::make_update(h, 1).prepares_grad);
  CHECK_FALSE(rmsprop::make_update(h, 1).decays_param);
}
