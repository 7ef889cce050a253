#include "runtime.hpp"

#include <string>

#include "groups.hpp"
#include "rmsprop/runtime.hpp"

namespace rmsprop::bindings {
namespace {

// (name, supported here, chosen), best first.
py::list list_instruction_sets() {
  py::list sets;
  for (const InstructionSet& set : instruction_sets()) {
    sets.append(py::make_tuple(std::string(set.name), set.supported, set.chosen));
  }
  return sets;
}

void set_num_threads_from(const py::object& num_threads) {
  if (num_threads.is_none()) throw py::type_error("num_threads: got None, wanted an int");
  set_num_threads(num_threads_from(num_threads.ptr()));
}

}  // namespace

void register_runtime(py::module_& m) {
  m.def("get_num_threads", &get_num_threads);
  m.def("set_num_threads", &set_num_threads_from, py::arg("num_threads"));
  m.def("thread_use", [] { return thread_use() == ThreadUse::fixed ? "fixed" : "adaptive"; });
  m.def("available_cpus", &available_cpus);
  m.def("openmp_version", &openmp_version);
  m.def("instruction_sets", &list_instruction_sets);
  m.def("use_instruction_set", [](const std::string& name) { use_instruction_set(name); }, py::arg("name"));
}

}  // namespace rmsprop::bindings
