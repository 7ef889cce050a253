// The extension module: a list of its parts.

#include <pybind11/pybind11.h>

#include "arrays/views.hpp"
#include "rmsprop/runtime.hpp"
#include "rules.hpp"
#include "runtime.hpp"
#include "stepper.hpp"

PYBIND11_MODULE(_core, m, pybind11::mod_gil_not_used()) {
  m.attr("__version__") = RMSPROP_VERSION;
  rmsprop::bindings::import_numpy();
  rmsprop::use_instruction_set_from_environment();  // exceptions become an ImportError
  rmsprop::set_thread_use_from_environment();
  rmsprop::bindings::register_runtime(m);
  rmsprop::bindings::register_rules(m);
  rmsprop::bindings::register_stepper(m);
}
