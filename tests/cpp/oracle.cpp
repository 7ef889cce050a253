#include "oracle.hpp"

#include <cmath>
#include <stdexcept>

using rmsprop::Adagrad;
using rmsprop::Preparation;
using rmsprop::RMSprop;

namespace {

// One IEEE-754 operation each. The result passes through volatile memory, so whatever flags this file is compiled with,
// it is rounded once and never fused with the next operation.
template <class T>
T add(T a, T b) {
  volatile T result = a + b;
  return result;
}

template <class T>
T subtract(T a, T b) {
  volatile T result = a - b;
  return result;
}

template <class T>
T multiply(T a, T b) {
  volatile T result = a * b;
  return result;
}

template <class T>
T divide(T a, T b) {
  volatile T result = a / b;
  return result;
}

template <class T>
T square_root(T a) {
  volatile T result = std::sqrt(a);
  return result;
}

template <class T>
struct Element {
  T w, g, v, m, b;
};

template <class T>
void prepare(Element<T>& e, const Preparation& p, double lr) {
  if (p.grad_scale != 1.0) e.g = multiply(T(p.grad_scale), e.g);
  if (p.clip_scale != 1.0) e.g = multiply(T(p.clip_scale), e.g);
  if (e.g < -T(p.clip_value)) e.g = -T(p.clip_value);
  if (e.g > T(p.clip_value)) e.g = T(p.clip_value);
  if (p.maximize) e.g = -e.g;
  if (p.weight_decay == 0.0) return;
  if (p.decoupled_weight_decay) {
    e.w = subtract(e.w, multiply(T(lr * p.weight_decay), e.w));
  } else {
    e.g = add(e.g, multiply(T(p.weight_decay), e.w));
  }
}

template <class T>
T denominator(T s, double eps, bool eps_in_sqrt) {
  return eps_in_sqrt ? square_root(add(s, T(eps))) : add(square_root(s), T(eps));
}

double power(double alpha, std::int64_t t) {
  if (t < 1 || t > 3) throw std::logic_error("the oracle knows bias correction for t from 1 to 3 only");
  double result = alpha;
  for (; t > 1; --t) result = multiply(result, alpha);
  return result;
}

template <class T>
void step_element(Element<T>& e, const RMSprop& h, std::int64_t t) {
  prepare(e, h.prepare, h.lr);
  const T alpha = T(h.alpha);
  const T one_minus_alpha = T(1.0 - h.alpha);
  const T lr = T(h.lr);
  const T momentum = T(h.momentum);

  e.v = add(multiply(alpha, e.v), multiply(one_minus_alpha, multiply(e.g, e.g)));
  if (h.centered) e.m = add(multiply(alpha, e.m), multiply(one_minus_alpha, e.g));
  T vh = e.v;
  T mh = e.m;
  if (h.bias_correction) {
    const T k = T(1.0 / (1.0 - power(h.alpha, t)));
    vh = multiply(vh, k);
    mh = multiply(mh, k);
  }
  T s = vh;
  if (h.centered) {
    s = subtract(vh, multiply(mh, mh));
    if (s < T(0)) s = T(0);
  }
  const T d = denominator(s, h.eps, h.eps_in_sqrt);

  if (h.momentum == 0.0) {
    e.w = subtract(e.w, divide(multiply(lr, e.g), d));
    return;
  }
  const T u = h.lr_in_momentum ? divide(multiply(lr, e.g), d) : divide(e.g, d);
  e.b = add(multiply(momentum, e.b), u);
  const T direction = h.nesterov ? add(multiply(momentum, e.b), u) : e.b;
  e.w = subtract(e.w, h.lr_in_momentum ? direction : multiply(lr, direction));
}

template <class T>
void step_element(Element<T>& e, const Adagrad& h, std::int64_t t) {
  prepare(e, h.prepare, h.lr);
  e.v = add(e.v, multiply(e.g, e.g));
  const T clr = T(h.lr / (1.0 + static_cast<double>(t - 1) * h.lr_decay));
  e.w = subtract(e.w, divide(multiply(clr, e.g), denominator(e.v, h.eps, h.eps_in_sqrt)));
}

}  // namespace

template <class T>
Operands<T> oracle_step(const Hyperparameters& hyperparameters, std::int64_t t, Operands<T> operands) {
  std::visit(
      [&](const auto& h) {
        auto& [w, g, v, m, b] = operands;
        for (std::size_t i = 0; i < w.size(); ++i) {
          Element<T> e = {w[i], g[i], v[i], m[i], b[i]};
          step_element(e, h, t);
          w[i] = e.w;
          v[i] = e.v;
          m[i] = e.m;
          b[i] = e.b;
        }
      },
      hyperparameters);
  return operands;
}

template Operands<float> oracle_step(const Hyperparameters&, std::int64_t, Operands<float>);
template Operands<double> oracle_step(const Hyperparameters&, std::int64_t, Operands<double>);
