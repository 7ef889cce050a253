// One step, from Python objects to the engine and back.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "gradients.hpp"
#include "hyperparameters.hpp"
#include "overlap.hpp"
#include "rmsprop/rmsprop.hpp"
#include "tensor_state.hpp"
#include "views.hpp"

namespace rmsprop::bindings {

// Who calls, and so how arguments are called in messages: an optimizer has `params` and `grads`, a function `param` and
// `grad`, and an optimizer of PyTorch `params` with a `.grad` each.
enum class Naming : std::uint8_t { optimizer, function, torch };

// Checks everything a step is given and then takes it: a call completes, or raises before it has written one byte.
//
// Owns no arrays and no hyperparameters, only memory that serves again in the next step, so that a step allocates
// nothing, and the proof of the last step that its arrays do not overlap.
class Stepper {
 public:
  Stepper(Algorithm algorithm, Naming naming) : algorithm_(algorithm), naming_(naming), gathered_(algorithm) {}

  // groups      list of dicts of hyperparameters, each with "params", a list of arrays
  // grads       one array (keys is None), a dict (keys are strings) or a sequence (keys are integers)
  // columns     a tuple (keys, state, steps):
  //   keys        what each parameter is called, in the order of the groups, or None for a single parameter
  //   state       a tuple of lists, one for each kind of state, of arrays or None
  //   steps       int64 array: how many steps each parameter has taken; one more where there is a gradient
  // owner       the optimizer, or None. If state is missing that the hyperparameters need, it is asked for columns that
  //             have it, by `_columns_with_missing_state()`, and `_columns` becomes those if the step is taken
  void step(const py::object& groups, const py::object& grads, const py::tuple& columns, const py::object& grad_scale,
            const py::object& owner);

  // The same for an optimizer of PyTorch, whose parameters bring their gradients.
  //
  // state       the optimizer's: a dict from parameters to dicts
  // owner       the optimizer. If state is missing it is asked for entries that have it,
  //             by `_entries_with_missing_state()`, and `state` gets those if the step is taken
  // tell        is called with a list of the parameters that were written
  void step_tensors(const py::object& groups, const py::dict& state, const py::object& grad_scale,
                    const py::object& owner, const py::object& tell);

  // Raise what a step would raise with gradients that fit. State may be missing.
  void check(const py::object& groups, const py::tuple& columns);
  void check_tensors(const py::object& groups, const py::dict& state);

  // What becomes of a step whose gradients are not all finite: "propagate", "skip" or "raise".
  py::str nonfinite() const;
  void set_nonfinite(const py::object& name) { nonfinite_ = nonfinite_from(name.ptr()); }

  // How many steps were not taken because of that. Counted here, where no interrupt can come between.
  std::int64_t skipped_steps() const { return skipped_steps_; }
  void set_skipped_steps(std::int64_t count) { skipped_steps_ = count; }

  // At most so many threads; None for the default of the process.
  py::object num_threads() const { return num_threads_ == 0 ? py::object(py::none()) : py::int_(num_threads_); }
  void set_num_threads(const py::object& n) { num_threads_ = num_threads_from(n.ptr()); }

  Algorithm algorithm() const { return algorithm_; }
  Naming naming() const { return naming_; }

 private:
  struct Arguments;
  class References;
  class Source;
  class Columns;
  class Tensors;

  // The objects of one tensor, by operand; borrowed, and null where there is none.
  using Objects = std::array<PyObject*, operand_count>;

  struct Group {
    GroupHyperparameters hyperparameters;
    unsigned state_needed = 0;  // by them, as bits by operand
    bool differs_between_steps = false;
    Update update = {};           // made from them for step `t`
    std::int64_t t = 0;           // 0 if none was made yet
    std::size_t own_updates = 0;  // index of its first one in updates_
    PyObject* dict = nullptr;     // borrowed
    PyObject* const* params = nullptr;
    std::size_t count = 0;  // of parameters
  };

  void hold_all(References& references) const;
  bool attempt(const Source& source);
  Arguments read(const Source& source);
  Arguments collect_again(const Source& source, References& alive);
  bool find_lazy(const Arguments& arguments) const;
  void read_groups(const py::list& groups, PyObject* steps, double grad_scale);
  void find_params(const py::list& groups);
  void check_arrays(const Source& source);
  std::vector<unsigned> state_needed() const;
  template <class Work>
  static auto with_errors_of_torch(Work work);
  py::object torch_name(std::size_t index) const;
  void reserve(std::size_t params);
  const Update& update_for(Group& group, std::int64_t t);
  void collect(const Arguments& arguments);
  std::int64_t next_step(const Arguments& arguments, std::size_t index) const;
  void find_state(const Arguments& arguments, std::size_t index, unsigned needed, Objects& objects) const;
  void describe_any(const Arguments& arguments, std::size_t index, const Objects& objects, Tensor& tensor);
  Layout& next_layout();
  const Layout* layout_for(std::span<const View> views, const Tensor& tensor);
  bool check_overlap(const Arguments& arguments);
  bool needs_gradients_first() const;
  void collect_gradients(const Arguments& arguments);
  void clip(double sum_of_squares);
  bool prepare_gradients(const Arguments& arguments);
  bool is_worth_releasing_the_gil() const;
  template <class Work>
  void without_gil(Work work) const;
  Label label(const Arguments& arguments, std::size_t index, int operand) const;

  Algorithm algorithm_;
  Naming naming_;
  Nonfinite nonfinite_ = Nonfinite::propagate;
  std::int64_t skipped_steps_ = 0;
  int num_threads_ = 0;  // 0: the default of the process
  std::atomic_flag busy_ = ATOMIC_FLAG_INIT;

  std::vector<Group> groups_;
  std::vector<Update> updates_;  // for parameters that are not at their group's step; never grows during a step
  std::vector<Tensor> tensors_;  // those of the last step, until those of this one take their places
  bool tensors_are_proven_disjoint_ = false;
  std::int64_t elements_ = 0;         // of all tensors
  std::vector<Tensor> gradients_;     // the same tensors with their gradients alone, in the order of their elements
  std::vector<std::size_t> indices_;  // which parameter each tensor is
  std::vector<std::size_t> unusual_;  // which tensors are not of the ordinary kind
  std::vector<Objects> arrays_;       // the objects of all tensors
  std::vector<PyObject*> held_;       // owned references while a step is taken
  std::vector<std::unique_ptr<Layout>> layouts_;
  std::size_t layouts_used_ = 0;
  TensorState gathered_;
  OverlapCheck overlap_;
};

void register_stepper(py::module_& m);

}  // namespace rmsprop::bindings
