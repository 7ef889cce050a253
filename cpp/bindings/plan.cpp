#include "plan.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <utility>

#include "arrays/lazy.hpp"

namespace rmsprop::bindings {
namespace {

// Without branches for each pointer; == of their arrays calls a C library function, which is slower.
bool is_same_written(const Tensor& a, const Tensor& b) {
  bool same = a.size == b.size && a.dtype == b.dtype && a.layout == b.layout;
  same = same && std::bit_cast<std::uint64_t>(a.packing) == std::bit_cast<std::uint64_t>(b.packing);
  std::uintptr_t difference = 0;
  for (const Operand operand : operands) {
    const auto ours = reinterpret_cast<std::uintptr_t>(a.data[operand]);
    if (operand != grad) difference |= ours ^ reinterpret_cast<std::uintptr_t>(b.data[operand]);
  }
  return same && difference == 0;
}

// Whether two layouts visit the same memory.
bool is_same(const Layout& a, const Layout& b) {
  if (a.ndim != b.ndim || a.dense != b.dense) return false;
  if (!std::equal(a.shape.begin(), a.shape.begin() + a.ndim, b.shape.begin())) return false;
  for (int operand = 0; operand < elementwise_count; ++operand) {
    const auto& strides = a.strides[operand];
    if (!std::equal(strides.begin(), strides.begin() + a.ndim, b.strides[operand].begin())) return false;
  }
  return true;
}

}  // namespace

// Replaces a tensor of the previous step. Almost nothing is written if nothing changed, so that other threads' cache
// lines stay valid. Returns whether all operands that the step writes are the same memory.
bool Plan::put(std::size_t i, const Tensor& tensor) {
  Tensor& before = tensors_[i];
  const bool same_written = is_same_written(tensor, before);
  if (!same_written || tensor.data[grad] != before.data[grad]) {
    same_written ? disjointness_.forget_gradients() : disjointness_.forget();
    before = tensor;
  } else if (before.update != tensor.update || before.random != tensor.random) {
    before.update = tensor.update;
    before.random = tensor.random;
  }
  return same_written;
}

// The fast path.
bool Plan::describe_ordinary(std::size_t i, const Group& group, Tensor& tensor) const {
  return group.stores_as_computed() && bindings::describe_ordinary(gathered_.objects()[i], tensor);
}

std::optional<Refused> Plan::look_at_all(const Source& source, std::vector<Group>& groups, bool everything) {
  const std::span<const Objects> objects = gathered_.objects();
  tensors_.resize(objects.size());
  layouts_.resize(std::max(layouts_.size(), objects.size()));
  unasked_.clear();
  elements_ = 0;
  updates_.clear();
  std::size_t updates = 0;
  for (std::size_t g = 0, begin = 0; g < groups.size(); begin = gathered_.end_of(g++)) {
    if (groups[g].differs_between_steps()) updates += gathered_.end_of(g) - begin;
  }
  updates_.reserve(updates);  // tensors point to them
  std::size_t i = 0;
  for (std::size_t g = 0; g < groups.size(); ++g) {
    groups[g].begin_step(updates_);
    for (; i < gathered_.end_of(g); ++i) {
      Tensor tensor;
      tensor.update = &groups[g].update_for(gathered_.param(i).next_step, updates_);
      const bool is_ordinary = describe_ordinary(i, groups[g], tensor);
      if (!is_ordinary) {
        if (auto refused = describe_any(i, groups[g], tensor)) return refused;
      }
      if (!is_ordinary && tensor.is_stochastic()) {
        const auto& [index, next_step] = gathered_.param(i);
        tensor.random = groups[g].random(next_step, source.first_number() + static_cast<std::int64_t>(index));
      }
      elements_ += tensor.size;
      const bool is_same = put(i, tensor);
      if ((everything || !is_same) && (!is_ordinary || !is_exact_array(objects[i][param]))) unasked_.push_back(i);
    }
  }
  return std::nullopt;
}

// The general path: finds every problem of an array, and accepts any layout.
std::optional<Refused> Plan::describe_any(std::size_t i, const Group& group, Tensor& tensor) {
  const Objects& objects = gathered_.objects()[i];
  const StorageTypes& types = group.storage_types();
  std::array<View, array_count> views = {};
  for (const Operand operand : operands) {
    if (objects[operand] == nullptr) continue;
    View& view = views[operand];
    auto problem = look(objects[operand], view, operand);
    if (!problem && operand == param) problem = problem_with_storage_of(view, types);
    if (!problem && operand != param) problem = problem_beside(views[param], view, operand, types);
    if (!problem && operand != grad) problem = problem_with_writing(view);
    if (problem) return Refused{std::move(*problem), {i, operand}};
    tensor.data[operand] = view.data();
  }
  tensor.size = views[param].size();
  tensor.dtype = views[param].type().dtype;
  tensor.packing[param] = param_packing(views[param], types);
  tensor.packing[grad] = views[views[grad] ? grad : param].type().packing;
  for (int operand = square_avg; operand < elementwise_count; ++operand) {
    if (views[operand]) tensor.packing[operand] = state_packing(types.state_dtype, operand);
  }
  if (tensor.size > 0) keep_layout(i, views, tensor);
  return std::nullopt;
}

// None if the operands are dense after all, such as channels-last ones. If it equals that of the last step, it stays
// the same object, by which the tensor is recognized.
void Plan::keep_layout(std::size_t i, std::span<const View> views, Tensor& tensor) {
  Layout layout;
  for (int operand = 0; operand < elementwise_count; ++operand) {
    if (views[operand]) bindings::describe(views[operand], layout, operand);
  }
  if (normalize(layout, tensor)) return;
  const bool is_known = layouts_[i] != nullptr && tensors_[i].layout == layouts_[i].get();
  if (!is_known || !is_same(layout, *layouts_[i])) {
    layouts_[i] = std::make_unique<Layout>(layout);
    tensors_[i].layout = nullptr;  // the old one is gone
  }
  tensor.layout = layouts_[i].get();
}

// A norm must not depend on the placement of elements: so these layouts keep the order of indices.
std::optional<Refused> Plan::describe_gradients() {
  gradients_.assign(tensors_.size(), {});
  gradient_layouts_.resize(std::max(gradient_layouts_.size(), tensors_.size()));
  for (std::size_t i = 0; i < tensors_.size(); ++i) {
    View view;
    if (auto problem = look(gathered_.objects()[i][grad], view, grad)) return Refused{std::move(*problem), {i, grad}};
    Tensor& gradient = gradients_[i];
    gradient = tensors_[i];
    gradient.data = {};
    gradient.data[grad] = view.data();
    gradient.layout = nullptr;
    if (gradient.size == 0 || (view.is_c_contiguous() && view.is_aligned())) continue;
    Layout layout;
    bindings::describe(view, layout, grad);
    if (normalize_in_order(layout, gradient)) continue;
    if (gradient_layouts_[i] == nullptr) gradient_layouts_[i] = std::make_unique<Layout>();
    *gradient_layouts_[i] = layout;
    gradient.layout = gradient_layouts_[i].get();
  }
  return std::nullopt;
}

void Plan::clip(std::vector<Group>& groups, double sum_of_squares) {
  std::size_t end = updates_.size();
  for (auto group = groups.rbegin(); group != groups.rend(); ++group) {
    if (std::isfinite(group->clip_norm())) {
      group->set_clip_scale(clip_scale(sum_of_squares, group->clip_norm()), updates_, end);
    }
    end = group->first_of_others();
  }
}

// What only the arrays themselves can tell. They may run Python code, and let other threads run theirs.
std::optional<Outcome> Plan::ask_whether_lazy(bool& asked) {
  for (const std::size_t i : unasked_) {
    for (const Operand operand : operands) {
      PyObject* array = gathered_.objects()[i][operand];
      if (array == nullptr || !has_exchange_api(Py_TYPE(array))) continue;
      gathered_.hold();
      asked = true;
      if (operand != grad && is_lazy(array)) return Refused{lazy_problem(), {i, operand}};
      const Area area = area_of(tensors_[i], {i, operand});
      if (tensors_[i].size > 0 && !has_memory(array, area.begin, area.end)) {
        return Refused{{Problem::Error::unusable, "got {found}, wanted an array with memory of its own"}, {i, operand}};
      }
    }
  }
  return std::nullopt;
}

// Nothing if all is valid.
std::optional<Outcome> Plan::ask(bool everything, bool& asked) {
  if (auto outcome = ask_whether_lazy(asked)) return outcome;
  if (everything) disjointness_.forget();
  if (disjointness_.is_proven()) return std::nullopt;
  gathered_.hold();
  if (auto overlap = disjointness_.find(tensors_, asked)) return Overlapping{*overlap};
  return std::nullopt;
}

// The last check, after Python code may have run: all arrays must be the same memory.
bool Plan::is_as_before(const std::vector<Group>& groups) {
  std::size_t i = 0;
  for (std::size_t g = 0; g < groups.size(); ++g) {
    for (; i < gathered_.end_of(g); ++i) {
      Tensor tensor;
      if (!describe_ordinary(i, groups[g], tensor) && describe_any(i, groups[g], tensor)) return false;
      if (!is_same_written(tensor, tensors_[i]) || tensor.data[grad] != tensors_[i].data[grad]) return false;
    }
  }
  return true;
}

Outcome Plan::make(Source& source, std::vector<Group>& groups, Purpose purpose) {
  gathered_.clear();
  if (auto missing = source.collect(gathered_)) return *missing;
  // Until all is valid, the proof of an earlier step must not be used.
  const auto refused = [&](auto outcome) -> Outcome {
    is_proven_ = false;
    gathered_.hold();  // before anything is asked for its name
    return outcome;
  };
  const bool everything = !is_proven_ || tensors_.size() != gathered_.size();
  if (auto found = look_at_all(source, groups, everything)) return refused(std::move(*found));
  is_proven_ = false;
  bool asked = false;
  was_disturbed_ = true;
  if (auto found = ask(everything, asked)) return refused(std::move(*found));
  if (asked && !is_as_before(groups)) return refused(Replaced{});
  if (purpose == Purpose::step_with_norm) {
    if (auto found = describe_gradients()) return refused(std::move(*found));
  }
  was_disturbed_ = asked;
  is_proven_ = true;
  return Ready{};
}

}  // namespace rmsprop::bindings
