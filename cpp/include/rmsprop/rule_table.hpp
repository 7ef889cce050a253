/// @file
/// The table of rules: the name of each, its hyperparameters with their defaults and ranges, and its state.
///
/// A program that gets its settings from elsewhere, such as the Python bindings, needs nothing else of a rule: it
/// passes a number for each hyperparameter of a row, in the row's order, and gets the update of a step.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "rmsprop/tensor.hpp"
#include "rmsprop/update.hpp"

namespace rmsprop {

/// A hyperparameter of a rule.
struct HyperparameterInfo {
  /// What its values are.
  enum class Kind : std::uint8_t {
    number,  ///< A finite number from 0 to `most`.
    flag,    ///< 0 or 1.
    limit,   ///< A number >= 0, or infinity where there is no limit.
    count,   ///< A whole number from 0 to `most`.
    choice   ///< The place of one of `choices`.
  };
  const char* name;      ///< PyTorch's name, where PyTorch has it.
  Kind kind;             ///< What its values are.
  double default_value;  ///< That of the textbook form.
  double most;           ///< The largest valid value.
  /// Names, the first of which is null and stands for none.
  std::span<const char* const> choices = {};  // NOLINT(readability-redundant-member-init): most rows leave it out
  bool is_optional = false;                   ///< Settings of older versions lack it; then it has its default.
};

/// A kind of state that a rule may need.
struct StateInfo {
  const char* name;  ///< PyTorch's name.
  Operand operand;   ///< Where a tensor has it.
  bool accumulates;  ///< It begins with `initial_accumulator_value`; any other begins with 0.
};

/// A row of the table. Values are in the order of `hyperparameters`.
struct RuleInfo {
  using Values = std::span<const double>;               ///< One for each hyperparameter.
  const char* name;                                     ///< "rmsprop" or "adagrad".
  std::span<const HyperparameterInfo> hyperparameters;  ///< All of them, also those that no update depends on.
  std::span<const StateInfo> state;                     ///< All state it may need.
  /// @throws std::invalid_argument that names the invalid value, and what was wanted.
  void (*check)(Values values);
  /// The result of make_update() at step `t` for these values, and gradients that are multiplied by `grad_scale`.
  Update (*make_update)(Values values, double grad_scale, std::int64_t t);
  /// The result of depends_on_step().
  bool (*depends_on_step)(Values values);
  /// How arrays are stored.
  Storage (*storage)(Values values);
  /// The state that is needed, as a bit per Operand: that of the rule, and what its storage adds.
  unsigned (*state_needed)(Values values);
};

/// The table.
std::span<const RuleInfo> rule_table() noexcept;

/// The place of a hyperparameter in its row, or -1.
int place_of(const RuleInfo& rule, const char* hyperparameter) noexcept;

}  // namespace rmsprop
