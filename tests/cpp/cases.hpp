// What the tests run over: hyperparameters, instruction sets, element types and values.
#pragma once

#include <bit>
#include <cstdint>
#include <limits>
#include <random>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "oracle.hpp"
#include "rmsprop/rmsprop.hpp"

struct Case {
  std::string name;
  Hyperparameters hyperparameters;
};

inline rmsprop::Update make_update(const Hyperparameters& hyperparameters, std::int64_t t) {
  return std::visit([&](const auto& h) { return rmsprop::make_update(h, t); }, hyperparameters);
}

inline rmsprop::Preparation& preparation(Hyperparameters& hyperparameters) {
  return std::visit([](auto& h) -> rmsprop::Preparation& { return h.prepare; }, hyperparameters);
}

// One case per Rule, in the order of the enumeration.
inline std::vector<Case> every_rule() {
  std::vector<Case> cases = {{"adagrad", rmsprop::Adagrad{}}};
  for (const bool centered : {false, true}) {
    const std::string name = centered ? "rmsprop_centered" : "rmsprop";
    rmsprop::RMSprop h;
    h.centered = centered;
    cases.push_back({name, h});
    h.momentum = 0.9;
    cases.push_back({name + "_momentum", h});
    h.nesterov = true;
    cases.push_back({name + "_nesterov", h});
  }
  return cases;
}

// Every rule with every switch of its formula in both positions.
inline std::vector<Case> every_formula() {
  std::vector<Case> cases;
  for (const Case& rule : every_rule()) {
    for (const bool eps_in_sqrt : {false, true}) {
      for (const bool second : {false, true}) {
        for (const bool lr_in_momentum : {false, true}) {
          Case c = rule;
          if (auto* h = std::get_if<rmsprop::RMSprop>(&c.hyperparameters)) {
            h->eps_in_sqrt = eps_in_sqrt;
            h->bias_correction = second;
            h->lr_in_momentum = lr_in_momentum;
            if (lr_in_momentum && h->momentum == 0.0) continue;
          } else if (auto* a = std::get_if<rmsprop::Adagrad>(&c.hyperparameters)) {
            a->eps_in_sqrt = eps_in_sqrt;
            a->lr_decay = second ? 0.1 : 0.0;
            if (lr_in_momentum) continue;
          }
          c.name += eps_in_sqrt ? " eps_in_sqrt" : "";
          c.name += second ? " bias_correction or lr_decay" : "";
          c.name += lr_in_momentum ? " lr_in_momentum" : "";
          cases.push_back(c);
        }
      }
    }
  }
  return cases;
}

// Calls body(name) with each supported instruction set in use, best first, and leaves the one that was in use.
template <class Body>
void on_every_instruction_set(Body body) {
  std::string before;
  for (const auto& set : rmsprop::instruction_sets()) {
    if (set.chosen) before = set.name;
  }
  for (const auto& set : rmsprop::instruction_sets()) {
    if (!set.supported) continue;
    rmsprop::use_instruction_set(set.name);
    body(std::string(set.name));
  }
  rmsprop::use_instruction_set(before);
}

template <class T>
constexpr rmsprop::DType dtype_of = std::is_same_v<T, float> ? rmsprop::DType::float32 : rmsprop::DType::float64;

using Random = std::mt19937_64;

// In [low, high), and the same on every platform, which the distributions of the standard library are not.
template <class T>
T uniform(Random& random, double low, double high) {
  return static_cast<T>(low + (high - low) * (static_cast<double>(random() >> 11) * 0x1p-53));
}

inline std::int64_t integer(Random& random, std::int64_t low, std::int64_t high) {  // in [low, high]
  return low + static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(high - low + 1));
}

// An everyday value for an operand: a sum of squares is not negative.
template <class T>
T ordinary(Random& random, int operand) {
  return operand == rmsprop::square_avg ? uniform<T>(random, 0.0, 2.0) : uniform<T>(random, -2.0, 2.0);
}

template <class T>
Operands<T> ordinary_operands(std::int64_t size, std::uint64_t seed) {
  Random random(seed);
  Operands<T> operands;
  for (int operand = 0; operand < rmsprop::operand_count; ++operand) {
    operands[operand].resize(static_cast<std::size_t>(size));
    for (T& value : operands[operand]) value = ordinary<T>(random, operand);
  }
  return operands;
}

// Where arithmetic has edges: signed zeros, the subnormals' ends, the largest number, infinities, NaN, and values whose
// squares underflow or overflow.
template <class T>
std::vector<T> special_values() {
  using Limits = std::numeric_limits<T>;
  const T tiny = Limits::min();
  std::vector<T> values = {
      T(0),
      Limits::denorm_min(),
      tiny / 3,
      tiny,
      std::bit_cast<T>(std::bit_cast<std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>>(tiny) - 1),
      std::sqrt(tiny),
      std::sqrt(Limits::denorm_min()),
      Limits::epsilon(),
      T(1e-8),
      T(1) / 3,
      T(1),
      T(1e10),
      std::sqrt(Limits::max()),
      Limits::max() / 2,
      Limits::max(),
      Limits::infinity()};
  const std::size_t positive = values.size();
  for (std::size_t i = 0; i < positive; ++i) values.push_back(-values[i]);
  values.push_back(Limits::quiet_NaN());
  return values;
}

// Every special parameter with every special gradient and accumulator; the rest at random.
template <class T>
Operands<T> special_operands() {
  const std::vector<T> values = special_values<T>();
  Random random(7);
  const auto any = [&] { return values[static_cast<std::size_t>(integer(random, 0, std::ssize(values) - 1))]; };
  Operands<T> operands;
  for (const T w : values) {
    for (const T g : values) {
      for (const T v : values) {
        operands[rmsprop::param].push_back(w);
        operands[rmsprop::grad].push_back(g);
        operands[rmsprop::square_avg].push_back(v);
        operands[rmsprop::grad_avg].push_back(any());
        operands[rmsprop::momentum_buffer].push_back(any());
      }
    }
  }
  return operands;
}
