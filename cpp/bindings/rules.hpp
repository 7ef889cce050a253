// The table of rules for Python.
#pragma once

#include <pybind11/pybind11.h>

#include "rmsprop/rule_table.hpp"

namespace rmsprop::bindings {

namespace py = pybind11;

// A `Rule`.
py::object describe_rule(const RuleInfo& rule);

void register_rules(py::module_& m);

}  // namespace rmsprop::bindings
