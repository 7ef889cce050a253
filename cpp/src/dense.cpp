// Checks dense arrays and describes them to the engine.

#include "rmsprop/dense.hpp"

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <stdexcept>
#include <string>
#include <type_traits>

namespace rmsprop {
namespace {

template <class T>
using Spans = std::array<std::span<const T>, operand_count>;

template <class T>
void check_sizes(const Spans<T>& spans, Rule rule) {
  const unsigned needed = state_of(rule) | 1u << grad;
  const std::size_t wanted = spans[param].size();
  for (int operand = grad; operand < operand_count; ++operand) {
    const std::size_t size = spans[operand].size();
    const bool may_be_empty = (needed >> operand & 1u) == 0;
    if (size == wanted || (may_be_empty && size == 0)) continue;
    throw std::invalid_argument(std::string(operand_names[operand]) + ": got " + std::to_string(size) +
                                " elements, wanted " + std::to_string(wanted) + " as in param");
  }
}

template <class T>
bool overlap(std::span<const T> a, std::span<const T> b) {
  constexpr std::less<const T*> before;  // of pointers into different arrays, < says nothing
  return !a.empty() && !b.empty() && before(a.data(), b.data() + b.size()) && before(b.data(), a.data() + a.size());
}

template <class T>
void check_disjoint(const Spans<T>& spans) {
  for (int a = 0; a < operand_count; ++a) {
    for (int b = a + 1; b < operand_count; ++b) {
      if (!overlap(spans[a], spans[b])) continue;
      throw std::invalid_argument(std::string(operand_names[a]) + " and " + operand_names[b] + " overlap");
    }
  }
}

template <class T>
Tensor make_tensor(const DenseArrays<T>& arrays, const Update* update) {
  if (update == nullptr) throw std::invalid_argument("update: got null, wanted an Update");
  const Spans<T> spans = {arrays.param, arrays.grad, arrays.square_avg, arrays.grad_avg, arrays.momentum_buffer};
  check_sizes(spans, update->rule);
  check_disjoint(spans);
  Tensor tensor;
  for (int operand = 0; operand < operand_count; ++operand) {
    // The engine never writes to a gradient, and every other array came in writeable.
    if (!spans[operand].empty())
      tensor.data[operand] = reinterpret_cast<std::byte*>(const_cast<T*>(spans[operand].data()));
  }
  tensor.update = update;
  tensor.size = static_cast<std::int64_t>(arrays.param.size());
  tensor.dtype = std::is_same_v<T, float> ? DType::float32 : DType::float64;
  return tensor;
}

}  // namespace

Tensor dense_tensor(const DenseArrays<float>& arrays, const Update* update) { return make_tensor(arrays, update); }
Tensor dense_tensor(const DenseArrays<double>& arrays, const Update* update) { return make_tensor(arrays, update); }

}  // namespace rmsprop
