// Reduces the layouts of a tensor's operands to the fewest dimensions that describe them all.

#include <algorithm>
#include <cstdint>
#include <cstdlib>

#include "rmsprop/tensor.hpp"

namespace rmsprop {
namespace {

void move_dimension(Layout& layout, int from, int to) {
  if (from == to) return;
  layout.shape[to] = layout.shape[from];
  for (auto& strides : layout.strides) strides[to] = strides[from];
}

void swap_dimensions(Layout& layout, int a, int b) {
  std::swap(layout.shape[a], layout.shape[b]);
  for (auto& strides : layout.strides) std::swap(strides[a], strides[b]);
}

void drop_dimensions_of_one(Layout& layout) {
  int kept = 0;
  for (int d = 0; d < layout.ndim; ++d) {
    if (layout.shape[d] != 1) move_dimension(layout, d, kept++);
  }
  layout.ndim = kept;
}

// Insertion sort: there are few dimensions, usually already in order, and equal strides must keep their order.
void sort_by_parameter_stride(Layout& layout) {
  const auto& strides = layout.strides[param];
  for (int i = 1; i < layout.ndim; ++i) {
    for (int d = i; d > 0 && std::abs(strides[d - 1]) < std::abs(strides[d]); --d) swap_dimensions(layout, d - 1, d);
  }
}

// Dimensions a and a + 1 can be merged if the stride of a is the extent of a + 1, in every operand.
void merge_dimensions(Layout& layout, const Tensor& tensor) {
  if (layout.ndim == 0) return;
  int last = 0;
  for (int d = 1; d < layout.ndim; ++d) {
    const bool mergeable = [&] {
      for (int operand = 0; operand < elementwise_count; ++operand) {
        const auto& strides = layout.strides[operand];
        if (tensor.data[operand] != nullptr && strides[last] != layout.shape[d] * strides[d]) return false;
      }
      return true;
    }();
    if (mergeable) {
      const std::int64_t length = layout.shape[last];
      move_dimension(layout, d, last);
      layout.shape[last] *= length;
    } else {
      move_dimension(layout, d, ++last);
    }
  }
  layout.ndim = last + 1;
}

bool is_dense(const Layout& layout, const Tensor& tensor, int operand) {
  const std::int64_t item = tensor.item_size_of(operand);
  if (reinterpret_cast<std::uintptr_t>(tensor.data[operand]) % static_cast<std::uintptr_t>(item) != 0) return false;
  std::int64_t stride = item;
  for (int d = layout.ndim - 1; d >= 0; --d) {
    if (layout.strides[operand][d] != stride) return false;
    stride *= layout.shape[d];
  }
  return true;
}

bool finish(Layout& layout, const Tensor& tensor) {
  merge_dimensions(layout, tensor);
  if (layout.ndim == 0) {  // a single element; traversal needs at least one dimension
    layout.ndim = 1;
    layout.shape[0] = 1;
    for (int operand = 0; operand < elementwise_count; ++operand) {
      layout.strides[operand][0] = tensor.item_size_of(operand);
    }
  }
  bool all_dense = true;
  for (int operand = 0; operand < elementwise_count; ++operand) {
    layout.dense[operand] = tensor.data[operand] == nullptr || is_dense(layout, tensor, operand);
    all_dense = all_dense && layout.dense[operand];
  }
  return all_dense;
}

}  // namespace

bool normalize(Layout& layout, const Tensor& tensor) {
  drop_dimensions_of_one(layout);
  if (!tensor.is_stochastic()) sort_by_parameter_stride(layout);
  return finish(layout, tensor);
}

bool normalize_in_order(Layout& layout, const Tensor& tensor) {
  drop_dimensions_of_one(layout);
  return finish(layout, tensor);
}

}  // namespace rmsprop
