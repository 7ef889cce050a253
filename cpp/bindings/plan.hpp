// The second phase of a step: every array is checked once, and described to the engine.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <variant>
#include <vector>

#include "arrays/overlap.hpp"
#include "arrays/views.hpp"
#include "gather.hpp"
#include "groups.hpp"
#include "rmsprop/rmsprop.hpp"

namespace rmsprop::bindings {

// The outcome of all checks. Nothing has been written in any case.
struct Ready {};
struct Refused {
  Problem problem;
  ArrayId array;  // the tensor is one of those gathered
};
struct Overlapping {
  Overlap arrays;
};
struct Replaced {};  // other code changed an array while NumPy or the array objects were called
using Outcome = std::variant<Ready, Source::Missing, Refused, Overlapping, Replaced>;

// The memory is reused in the next step, so that a step allocates nothing, and so is the proof that the arrays of the
// last step do not overlap.
class Plan {
 public:
  enum class Purpose : std::uint8_t {
    step,
    step_with_norm,  // the gradients are read before the step, in the order of their elements
    check            // gradients are left out, and state may be missing
  };

  // Collects the objects of `source`, and checks them. Runs no Python code except to ask arrays whether they are lazily
  // negated or conjugated, or NumPy whether they overlap; then everything is held, and checked once more.
  Outcome make(Source& source, std::vector<Group>& groups, Purpose purpose);

  // Releases all that was gathered.
  void clear() { gathered_.clear(); }

  Gathered& gathered() { return gathered_; }
  std::span<const Tensor> tensors() const { return tensors_; }
  std::span<const Tensor> gradients() const { return gradients_; }  // the same, in the order of their elements
  std::int64_t elements() const { return elements_; }
  bool was_disturbed() const { return was_disturbed_; }  // Python code may have run while it was made

  // Scales each group's gradients as its `clip_norm` asks.
  void clip(std::vector<Group>& groups, double sum_of_squares);

 private:
  std::optional<Refused> look_at_all(const Source& source, std::vector<Group>& groups, bool everything);
  bool describe_ordinary(std::size_t i, const Group& group, Tensor& tensor) const;
  std::optional<Refused> describe_any(std::size_t i, const Group& group, Tensor& tensor);
  std::optional<Refused> describe_gradients();
  bool put(std::size_t i, const Tensor& tensor);
  void keep_layout(std::size_t i, std::span<const View> views, Tensor& tensor);
  std::optional<Outcome> ask(bool everything, bool& asked);
  std::optional<Outcome> ask_whether_lazy(bool& asked);
  bool is_as_before(const std::vector<Group>& groups);

  Gathered gathered_;
  std::vector<Tensor> tensors_;  // those of the last step, until those of this one replace them
  std::vector<Update> updates_;  // for parameters that are not at their group's step; never grows during a step
  std::vector<std::unique_ptr<Layout>> layouts_;  // of tensors, by their place
  std::vector<Tensor> gradients_;
  std::vector<std::unique_ptr<Layout>> gradient_layouts_;
  std::vector<std::size_t>
      unasked_;  // tensors that may not be plain NumPy arrays, and are written elsewhere than before
  Disjointness disjointness_;
  bool is_proven_ = false;  // all arrays of the last step were checked, and are disjoint
  bool was_disturbed_ = false;
  std::int64_t elements_ = 0;
};

}  // namespace rmsprop::bindings
