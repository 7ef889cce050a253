// From hyperparameters to coefficients: every derived scalar, computed once in double precision.

#include "rmsprop/update.hpp"

#include <cmath>
#include <cstddef>

#include "floating_point_scope.hpp"
#include "rmsprop/tensor.hpp"
#include "rules/rules.hpp"

namespace rmsprop {
namespace {

// alpha^t by repeated squaring: std::pow may differ in the last bit between C libraries, multiplication may not.
double power(double alpha, std::int64_t t) {
  double result = 1.0;
  for (double square = alpha; t > 0; t >>= 1, square *= square) {
    if (t & 1) result *= square;
  }
  return result;
}

void set_eps(Coefficients& c, double eps, bool eps_in_sqrt) {
  // + 0.0 turns a -0.0 into the +0.0 that is neutral.
  c.eps_inside = eps_in_sqrt ? eps + 0.0 : 0.0;
  c.eps_outside = eps_in_sqrt ? 0.0 : eps + 0.0;
}

bool needs_preparation(const Update& update) {
  const Coefficients& c = update.coefficients;
  return update.adds_l2 || c.grad_scale != 1.0 || c.clip_scale != 1.0 || std::isfinite(c.clip_value) || c.sign != 1.0;
}

void set_preparation(Update& update, const Preparation& prepare, double lr) {
  Coefficients& c = update.coefficients;
  c.grad_scale = prepare.grad_scale;
  c.clip_scale = prepare.clip_scale;
  c.clip_value = prepare.clip_value;
  c.sign = prepare.maximize ? -1.0 : 1.0;
  update.decays_param = prepare.decoupled_weight_decay && prepare.weight_decay != 0.0;
  update.adds_l2 = !prepare.decoupled_weight_decay && prepare.weight_decay != 0.0;
  c.weight_decay = prepare.weight_decay;
  c.decoupled_decay = lr * prepare.weight_decay;
  update.prepares_grad = needs_preparation(update);
}

void set_averaging(Update& update, double ema_decay) {
  update.averages_param = std::isfinite(ema_decay);
  if (!update.averages_param) return;
  update.coefficients.ema_decay = ema_decay;
  update.coefficients.one_minus_ema_decay = 1.0 - ema_decay;
}

Rule rule_of(const RMSprop& h) {
  if (h.momentum == 0.0) return h.centered ? Rule::rmsprop_centered : Rule::rmsprop;
  if (h.nesterov) return h.centered ? Rule::rmsprop_centered_nesterov : Rule::rmsprop_nesterov;
  return h.centered ? Rule::rmsprop_centered_momentum : Rule::rmsprop_momentum;
}

}  // namespace

Update make_update(const RMSprop& h, std::int64_t t) {
  const FloatingPointScope scope;
  Update update;
  update.rule = rule_of(h);
  Coefficients& c = update.coefficients;
  c.alpha = h.alpha;
  c.one_minus_alpha = 1.0 - h.alpha;
  c.correction = h.bias_correction ? 1.0 / (1.0 - power(h.alpha, t)) : 1.0;
  c.momentum = h.momentum;
  const bool lr_outside = h.momentum != 0.0 && !h.lr_in_momentum;
  c.lr_inside = lr_outside ? 1.0 : h.lr;
  c.lr_outside = lr_outside ? h.lr : 1.0;
  set_eps(c, h.eps, h.eps_in_sqrt);
  set_preparation(update, h.prepare, h.lr);
  set_averaging(update, h.storage.ema_decay);
  return update;
}

Update make_update(const Adagrad& h, std::int64_t t) {
  const FloatingPointScope scope;
  Update update;
  update.rule = Rule::adagrad;
  Coefficients& c = update.coefficients;
  c.lr_inside = h.lr / (1.0 + static_cast<double>(t - 1) * h.lr_decay);
  set_eps(c, h.eps, h.eps_in_sqrt);
  set_preparation(update, h.prepare, h.lr);
  set_averaging(update, h.storage.ema_decay);
  return update;
}

void set_clip_scale(Update& update, double clip_scale) {
  update.coefficients.clip_scale = clip_scale;
  update.prepares_grad = needs_preparation(update);
}

bool depends_on_step(const RMSprop& h) { return h.bias_correction; }
bool depends_on_step(const Adagrad& h) { return h.lr_decay != 0.0; }

unsigned state_of(Rule rule) {
  constexpr auto states = states_of(AllRules());
  return states[static_cast<std::size_t>(rule)];
}

}  // namespace rmsprop
