// The extension module: a list of what it is made of.

#include <pybind11/pybind11.h>

#include "arrays/views.hpp"
#include "rmsprop/runtime.hpp"
#include "rules.hpp"
#include "runtime.hpp"
#include "stepper.hpp"

PYBIND11_MODULE(_core, m, pybind11::mod_gil_not_used()) {
  m.attr("__version__") = RMSPROP_VERSION;
  rmsprop::bindings::import_numpy();
  rmsprop::use_instruction_set_from_environment();  // what it throws becomes an ImportError
  rmsprop::bindings::register_runtime(m);
  rmsprop::bindings::register_rules(m);
  rmsprop::bindings::register_stepper(m);
}
