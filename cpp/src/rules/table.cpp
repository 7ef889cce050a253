// The table of rules. A new rule gets a row here; no other code depends on its name.

#include "rmsprop/rule_table.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <limits>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>

#include "rmsprop/hyperparameters.hpp"

namespace rmsprop {
namespace {

using Kind = HyperparameterInfo::Kind;
constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr double largest_count = 9007199254740991.0;  // 2^53 - 1: a double holds every smaller one, too

// In the order of enum StateDType.
constexpr std::array<const char*, 3> state_dtypes = {nullptr, "bfloat16", "8bit"};

// In the order of enum MasterWeights.
constexpr std::array<const char*, 2> master_weights = {nullptr, "split"};

// A hyperparameter, and its place in the struct of its rule: null for those that no update depends on.
template <class Rule>
struct Field {
  HyperparameterInfo info;
  double (*get)(const Rule&) = nullptr;
  void (*set)(Rule&, double) = nullptr;
};

template <auto first, auto... rest>
constexpr auto& member(auto& object) {
  if constexpr (sizeof...(rest) == 0) {
    return object.*first;
  } else {
    return member<rest...>(object.*first);
  }
}

// The kind and the default follow from the member; `path` leads there from the struct of the rule.
template <class Rule, auto... path>
constexpr Field<Rule> field(const char* name, double most = std::numeric_limits<double>::max()) {
  constexpr Rule defaults;
  using Type = std::remove_cvref_t<decltype(member<path...>(defaults))>;
  constexpr Type value = member<path...>(defaults);
  constexpr bool is_flag = std::is_same_v<Type, bool>;
  return {{name,
           is_flag                                  ? Kind::flag
           : static_cast<double>(value) == infinity ? Kind::limit
                                                    : Kind::number,
           static_cast<double>(value), most},
          [](const Rule& rule) { return static_cast<double>(member<path...>(rule)); },
          [](Rule& rule, double number) { member<path...>(rule) = static_cast<Type>(number); }};
}

// Settings of older versions lack it.
template <class Rule>
constexpr Field<Rule> optional(Field<Rule> field) {
  field.info.is_optional = true;
  return field;
}

// The values of an enumeration, by name. Settings of older versions lack it.
template <class Rule>
constexpr Field<Rule> with_choices(Field<Rule> field, std::span<const char* const> choices) {
  field.info.kind = Kind::choice;
  field.info.most = static_cast<double>(choices.size() - 1);
  field.info.choices = choices;
  return optional(field);
}

// A whole number. Settings of older versions lack it.
template <class Rule>
constexpr Field<Rule> as_count(Field<Rule> field) {
  field.info.kind = Kind::count;
  field.info.most = largest_count;
  return optional(field);
}

// The hyperparameters that all rules have, after a rule's own.
template <class Rule, std::size_t own>
constexpr auto with_common(const std::array<Field<Rule>, own>& fields) {
  const std::array common = {
      field<Rule, &Rule::prepare, &Preparation::weight_decay>("weight_decay"),
      field<Rule, &Rule::prepare, &Preparation::decoupled_weight_decay>("decoupled_weight_decay"),
      field<Rule, &Rule::prepare, &Preparation::maximize>("maximize"),
      Field<Rule>{{"initial_accumulator_value", Kind::number, 0.0, std::numeric_limits<double>::max()}},
      field<Rule, &Rule::prepare, &Preparation::clip_value>("clip_value"),
      Field<Rule>{{"clip_norm", Kind::limit, infinity, infinity}},
      with_choices(field<Rule, &Rule::storage, &Storage::state_dtype>("state_dtype"), state_dtypes),
      with_choices(field<Rule, &Rule::storage, &Storage::master_weights>("master_weights"), master_weights),
      optional(field<Rule, &Rule::storage, &Storage::stochastic_rounding>("stochastic_rounding")),
      optional(field<Rule, &Rule::storage, &Storage::ema_decay>("ema_decay", 1.0)),
      as_count(field<Rule, &Rule::storage, &Storage::seed>("seed")),
  };
  std::array<Field<Rule>, own + std::tuple_size_v<decltype(common)>> all = {};
  std::copy(common.begin(), common.end(), std::copy(fields.begin(), fields.end(), all.begin()));
  return all;
}

template <class Rule>
struct Row;

template <>
struct Row<RMSprop> {
  static constexpr const char* name = "rmsprop";
  static constexpr auto fields = with_common(std::array{
      field<RMSprop, &RMSprop::lr>("lr"),
      field<RMSprop, &RMSprop::alpha>("alpha", 1.0),
      field<RMSprop, &RMSprop::eps>("eps"),
      field<RMSprop, &RMSprop::momentum>("momentum"),
      field<RMSprop, &RMSprop::nesterov>("nesterov"),
      field<RMSprop, &RMSprop::centered>("centered"),
      field<RMSprop, &RMSprop::eps_in_sqrt>("eps_in_sqrt"),
      field<RMSprop, &RMSprop::lr_in_momentum>("lr_in_momentum"),
      field<RMSprop, &RMSprop::bias_correction>("bias_correction"),
  });
  static constexpr std::array state = {StateInfo{"square_avg", square_avg, true},
                                       StateInfo{"grad_avg", grad_avg, false},
                                       StateInfo{"momentum_buffer", momentum_buffer, false},
                                       StateInfo{"ema", ema, false},
                                       StateInfo{"param_low", param_low, false},
                                       StateInfo{"square_avg_scale", square_avg_scale, false},
                                       StateInfo{"momentum_buffer_scale", momentum_buffer_scale, false}};
  static void check_together(const RMSprop& h) {
    if (h.nesterov && h.momentum == 0.0) {
      throw std::invalid_argument("nesterov: got True with momentum 0, wanted a momentum above 0 to look ahead with");
    }
    if (h.centered && h.storage.state_dtype == StateDType::eight_bits) {
      throw std::invalid_argument(
          "state_dtype: got '8bit' with centered, wanted 'bfloat16' or None: a variance cannot be the difference of "
          "numbers of 8 bits");
    }
  }
};

template <>
struct Row<Adagrad> {
  static constexpr const char* name = "adagrad";
  static constexpr auto fields = with_common(std::array{
      field<Adagrad, &Adagrad::lr>("lr"),
      field<Adagrad, &Adagrad::lr_decay>("lr_decay"),
      field<Adagrad, &Adagrad::eps>("eps"),
      field<Adagrad, &Adagrad::eps_in_sqrt>("eps_in_sqrt"),
  });
  static constexpr std::array state = {StateInfo{"sum", sum, true}, StateInfo{"ema", ema, false},
                                       StateInfo{"param_low", param_low, false},
                                       StateInfo{"sum_scale", square_avg_scale, false}};
  static void check_together(const Adagrad& /*h*/) {}
};

// ---- What follows from a row ----------------------------------------------------------------------------------------

[[noreturn]] void reject(std::string_view name, double number, const std::string& wanted) {
  std::array<char, 32> digits;  // the shortest that give the number back
  const auto end = std::to_chars(digits.data(), digits.data() + digits.size(), number).ptr;
  throw std::invalid_argument(std::string(name) + ": got " + std::string(digits.data(), end) + ", wanted " + wanted);
}

void check_range(const HyperparameterInfo& info, double value) {
  if (info.kind == Kind::limit) {
    if (!(value >= 0.0)) reject(info.name, value, "a number >= 0");
    if (std::isfinite(value) && value > info.most) {
      reject(info.name, value, "a number from 0 to " + std::to_string(static_cast<int>(info.most)) + " or None");
    }
  } else if (!(std::isfinite(value) && value >= 0.0)) {
    reject(info.name, value, "a finite number >= 0");
  } else if (info.kind == Kind::count && (value > info.most || value != std::floor(value))) {
    reject(info.name, value, "a whole number from 0 to 2**53 - 1");
  } else if (value > info.most) {
    reject(info.name, value, "a number from 0 to " + std::to_string(static_cast<int>(info.most)));
  }
}

template <class Rule>
void check_all(const Rule& rule) {
  for (const auto& field : Row<Rule>::fields) {
    if (field.get != nullptr) check_range(field.info, field.get(rule));
  }
  if (rule.storage.stochastic_rounding && rule.storage.master_weights == MasterWeights::split) {
    throw std::invalid_argument(
        "stochastic_rounding: got True with master_weights 'split', wanted one of them: split weights lose nothing "
        "that "
        "could be rounded");
  }
  if (!std::isfinite(rule.prepare.grad_scale)) reject("grad_scale", rule.prepare.grad_scale, "a finite number");
  Row<Rule>::check_together(rule);
}

template <class Rule>
Rule rule_from(std::span<const double> values) {
  Rule rule;
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (Row<Rule>::fields[i].set != nullptr) Row<Rule>::fields[i].set(rule, values[i]);
  }
  return rule;
}

unsigned with_storage(unsigned state, const Storage& storage) {
  if (std::isfinite(storage.ema_decay)) state |= 1u << ema;
  if (storage.master_weights == MasterWeights::split) state |= 1u << param_low;
  unsigned scales = 0;
  for (int operand = square_avg; operand < operand_count; ++operand) {
    const bool is_needed = (state >> operand & 1u) != 0;
    if (is_needed && has_scales(state_packing(storage.state_dtype, operand))) scales |= 1u << scale_of(operand);
  }
  return state | scales;
}

template <class Rule>
constexpr auto infos = [] {
  std::array<HyperparameterInfo, Row<Rule>::fields.size()> all = {};
  std::transform(Row<Rule>::fields.begin(), Row<Rule>::fields.end(), all.begin(), [](const auto& f) { return f.info; });
  return all;
}();

template <class Rule>
constexpr RuleInfo row = {Row<Rule>::name,
                          infos<Rule>,
                          Row<Rule>::state,
                          [](std::span<const double> values) {
                            for (std::size_t i = 0; i < values.size(); ++i) check_range(infos<Rule>[i], values[i]);
                            check_all(rule_from<Rule>(values));
                          },
                          [](std::span<const double> values, double grad_scale, std::int64_t t) {
                            Rule rule = rule_from<Rule>(values);
                            rule.prepare.grad_scale = grad_scale;
                            return make_update(rule, t);
                          },
                          [](std::span<const double> values) { return depends_on_step(rule_from<Rule>(values)); },
                          [](std::span<const double> values) { return rule_from<Rule>(values).storage; },
                          [](std::span<const double> values) {
                            const Rule rule = rule_from<Rule>(values);
                            return with_storage(state_of(make_update(rule, 1).rule), rule.storage);
                          }};

constexpr std::array table = {row<RMSprop>, row<Adagrad>};

}  // namespace

void check(const RMSprop& hyperparameters) { check_all(hyperparameters); }
void check(const Adagrad& hyperparameters) { check_all(hyperparameters); }

std::span<const RuleInfo> rule_table() noexcept { return table; }

int place_of(const RuleInfo& rule, const char* hyperparameter) noexcept {
  const auto& infos = rule.hyperparameters;
  const auto found = std::find_if(infos.begin(), infos.end(), [&](const HyperparameterInfo& info) {
    return std::string_view(info.name) == hyperparameter;
  });
  return found == infos.end() ? -1 : static_cast<int>(found - infos.begin());
}

}  // namespace rmsprop
