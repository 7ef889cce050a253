#include "rules.hpp"

#include <cmath>
#include <cstdint>

#include "python.hpp"

namespace rmsprop::bindings {
namespace {

using Kind = HyperparameterInfo::Kind;

py::tuple hyperparameter_names(const RuleInfo& rule) {
  py::list names;
  for (const HyperparameterInfo& info : rule.hyperparameters) names.append(info.name);
  return py::tuple(names);
}

py::dict defaults(const RuleInfo& rule) {
  py::dict values;
  for (const HyperparameterInfo& info : rule.hyperparameters) {
    py::object value = py::float_(info.default_value);
    if (info.kind == Kind::flag) value = py::bool_(info.default_value != 0.0);
    if (info.kind == Kind::count) value = py::int_(static_cast<std::int64_t>(info.default_value));
    if (info.kind == Kind::choice) value = py::none();
    if (info.kind == Kind::limit && std::isinf(info.default_value)) value = py::none();
    values[info.name] = value;
  }
  return values;
}

py::tuple optional_names(const RuleInfo& rule) {
  py::list names;
  for (const HyperparameterInfo& info : rule.hyperparameters) {
    if (info.is_optional) names.append(info.name);
  }
  return py::tuple(names);
}

// That of the formula, or all arrays, those that storage formats add among them.
py::tuple state_names(const RuleInfo& rule, int end) {
  py::list names;
  for (const StateInfo& state : rule.state) {
    if (state.operand < end) names.append(state.name);
  }
  return py::tuple(names);
}

const char* accumulator(const RuleInfo& rule) {
  for (const StateInfo& state : rule.state) {
    if (state.accumulates) return state.name;
  }
  return "";
}

}  // namespace

py::object describe_rule(const RuleInfo& rule) { return py::cast(&rule, py::return_value_policy::reference); }

void register_rules(py::module_& m) {
  py::class_<RuleInfo> type(m, "Rule");
  type.def_property_readonly("name", [](const RuleInfo& rule) { return rule.name; })
      .def_property_readonly("hyperparameters", &hyperparameter_names)
      .def_property_readonly("defaults", &defaults)
      .def_property_readonly("optional", &optional_names)
      .def_property_readonly("state", [](const RuleInfo& rule) { return state_names(rule, operand_count); })
      .def_property_readonly("arrays", [](const RuleInfo& rule) { return state_names(rule, array_count); })
      .def_property_readonly("accumulator", &accumulator);
  refuse_new(type);
  py::dict rules;
  for (const RuleInfo& rule : rule_table()) rules[rule.name] = describe_rule(rule);
  m.attr("rules") = rules;
}

}  // namespace rmsprop::bindings
