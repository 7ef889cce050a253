// One step, from Python objects to the engine and back, in four phases: gather, plan, take, commit.
#pragma once

#include <pybind11/pybind11.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "busy.hpp"
#include "gather.hpp"
#include "groups.hpp"
#include "plan.hpp"
#include "sources/tensors.hpp"

namespace rmsprop::bindings {

// Checks everything a step is given and then takes it: a call completes, or raises before it has written one byte.
//
// Owns no arrays and no hyperparameters, only memory that is reused in the next step, so that a step allocates nothing,
// and the proof of the last step that its arrays do not overlap.
class Stepper {
 public:
  Stepper(const std::string& rule, Naming naming) : rule_(rule), naming_(naming), busy_(std::make_shared<Busy>()) {}

  // What pybind11 makes of an object whose __init__ was never called is no stepper. All others are made with ::new.
  static void* operator new(std::size_t /*size*/) { throw py::type_error("Stepper: __init__ was not called"); }
  static void operator delete(void* memory) { ::operator delete(memory); }

  // Another one for the same optimizer: only one of them can be in a step.
  std::unique_ptr<Stepper> twin() const;

  // Return false, without any change, if state is missing that the hyperparameters need. Python makes it and calls
  // again, with it as `more`: existing state stays, and no schedule is called twice.
  //
  // groups      list of dicts of hyperparameters, each with "params", a list of arrays
  // grads       see GradientsArgument
  // columns     see Columns
  bool step(const py::object& groups, const py::object& grads, const py::tuple& columns, const py::object& grad_scale,
            const py::object& more);

  // The same for an optimizer of PyTorch, whose parameters have their gradients; see Tensors.
  // `first` is the number of the first of these parameters among all of the optimizer.
  bool step_tensors(const py::object& groups, const py::dict& state, const py::object& grad_scale,
                    const py::object& more, const py::object& on_written, std::int64_t first);

  // Raise what a step would raise with valid gradients. State may be missing. They use their own memory, so they may be
  // called at any time.
  void check(const py::object& groups, const py::tuple& columns) const;
  void check_tensors(const py::object& groups, const py::dict& state) const;

  // The names of the state that a group with these hyperparameters needs.
  py::tuple state_names(const py::object& group) const;

  // By these names, how each is stored: "computed" for the compute type of a parameter, "bfloat16", "unsigned8" or
  // "signed8", "scales" of one that is, or "lower_half".
  py::dict state_formats(const py::object& group) const;

  // What a step does if a gradient is not finite: "propagate", "skip" or "raise".
  const char* nonfinite() const { return name_of(nonfinite_); }
  void set_nonfinite(const py::object& name) { nonfinite_ = nonfinite_from(name.ptr()); }

  // How many steps were skipped. Counted here, where no interrupt can occur in between.
  std::int64_t skipped_steps() const { return skipped_steps_; }
  void set_skipped_steps(std::int64_t count) { skipped_steps_ = count; }

  // The maximum number of threads; None for the default of the process.
  py::object num_threads() const;
  void set_num_threads(const py::object& n) { num_threads_ = num_threads_from(n.ptr()); }

  const Rule& rule() const { return rule_; }
  Naming naming() const { return naming_; }
  const std::shared_ptr<Busy>& busy() const { return busy_; }

 private:
  using Groups = std::vector<Group>;

  void read_groups(Groups& groups, const py::object& list, PyObject* steps, double grad_scale, bool again) const;
  bool run(Source& source);
  void take(Nonfinite nonfinite, bool with_norm, Source& source);
  void check_all(Source& source, Groups& groups) const;
  [[noreturn]] void raise_outcome(const Outcome& outcome, const Source& source, const Gathered& gathered) const;

  Rule rule_;
  Naming naming_;
  std::atomic<Nonfinite> nonfinite_ = Nonfinite::propagate;
  std::atomic<std::int64_t> skipped_steps_ = 0;
  std::atomic<int> num_threads_ = 0;  // 0: the default of the process
  std::shared_ptr<Busy> busy_;        // protects the members below

  Groups groups_;
  Plan plan_;
  TensorsMemory tensors_memory_;
};

void register_stepper(py::module_& m);

}  // namespace rmsprop::bindings
