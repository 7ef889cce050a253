// The loops over the rules. This file is compiled once per instruction set (cmake/InstructionSets.cmake), each time
// with another RMSPROP_KERNELS, and each copy exports its entry points under that name and nothing else.
//
// A rule sees only dense tiles of T. Where a tensor is dense and its gradient is used as it is, the whole range is one
// tile in the caller's own memory. Otherwise tiles of `tile_size` elements pass through the first-level cache: gathered
// if they are strided, decoded if they are stored in 16 bits, prepared if the gradient must be scaled, clipped or
// decayed, and sent back the same way. These stages stand in front of the same formula, so they add up instead of
// multiplying out.

#include <array>
#include <cstdint>

#include "codecs.hpp"
#include "kernels.hpp"
#include "rules.hpp"

namespace rmsprop {
namespace {

// Five operands of 512 doubles are 20 KiB: they stay in a first-level cache of 32 KiB.
constexpr std::int64_t tile_size = 512;

// Pointers to the same dense run of elements in every operand.
template <class T>
struct Tile {
  T* param;
  const T* grad;
  T* square_avg;
  T* grad_avg;
  T* momentum_buffer;
};

// The caller has proven that no written operand overlaps another one, which is what lets these loops vectorise.
template <class Rule, class T>
void apply(const Tile<T>& tile, std::int64_t n, const Coefficients& coefficients) {
  const Scalars<T> c(coefficients);
  T* __restrict w = tile.param;
  const T* __restrict g = tile.grad;
  T* __restrict v = tile.square_avg;
  T* __restrict m = tile.grad_avg;
  T* __restrict b = tile.momentum_buffer;
  for (std::int64_t i = 0; i < n; ++i) {
    T none = T(0);
    Rule::update(w[i], g[i], v[i], Rule::centered ? m[i] : none, Rule::has_momentum ? b[i] : none, c);
  }
}

template <class T>
using Formula = void (*)(const Tile<T>&, std::int64_t, const Coefficients&);

// In the order of enum Rule.
template <class T>
constexpr std::array<Formula<T>, rule_count> formulas = {
    apply<AdagradRule, T>,
    apply<RMSpropRule<false, Momentum::none>, T>,
    apply<RMSpropRule<false, Momentum::heavy_ball>, T>,
    apply<RMSpropRule<false, Momentum::nesterov>, T>,
    apply<RMSpropRule<true, Momentum::none>, T>,
    apply<RMSpropRule<true, Momentum::heavy_ball>, T>,
    apply<RMSpropRule<true, Momentum::nesterov>, T>,
};

template <bool adds_l2, class T>
void prepare(T* __restrict out, const T* __restrict g, const T* __restrict w, std::int64_t n, const Scalars<T>& c) {
  for (std::int64_t i = 0; i < n; ++i) out[i] = prepared<adds_l2>(g[i], adds_l2 ? w[i] : T(0), c);
}

template <class T>
void decay(T* __restrict w, std::int64_t n, const Scalars<T>& c) {
  for (std::int64_t i = 0; i < n; ++i) w[i] = decayed(w[i], c);
}

// Dense views of a tensor's operands, one tile at a time.
template <class T>
class TileReader {
 public:
  explicit TileReader(const Tensor& tensor) : tensor_(tensor) {}

  T* read(Operand operand, std::int64_t begin, std::int64_t n) {
    if (tensor_.data[operand] == nullptr) return nullptr;
    if (tensor_.packing_of(operand) != Packing::none) {
      unpack(operand, begin, n);
    } else if (is_dense(operand)) {
      return own_memory<T>(operand, begin);
    } else {
      gather(buffers_[operand], tensor_, operand, begin, n);
    }
    return buffers_[operand];
  }

  void write_back(Operand operand, std::int64_t begin, std::int64_t n) {
    if (tensor_.data[operand] == nullptr) return;
    if (tensor_.packing_of(operand) != Packing::none) {
      pack(operand, begin, n);
    } else if (!is_dense(operand)) {
      scatter(buffers_[operand], tensor_, operand, begin, n);
    }
  }

 private:
  bool is_dense(Operand operand) const { return tensor_.layout == nullptr || tensor_.layout->dense[operand]; }

  template <class Stored>
  Stored* own_memory(Operand operand, std::int64_t begin) const {
    return reinterpret_cast<Stored*>(tensor_.data[operand]) + begin;
  }

  // Only numbers that are computed in float32 are ever packed.
  void unpack(Operand operand, std::int64_t begin, std::int64_t n) {
    if constexpr (sizeof(T) == sizeof(float)) {
      const bool dense = is_dense(operand);
      if (!dense) gather(packed_, tensor_, operand, begin, n);
      decode(buffers_[operand], dense ? own_memory<std::uint16_t>(operand, begin) : packed_, n,
             tensor_.packing_of(operand));
    }
  }

  void pack(Operand operand, std::int64_t begin, std::int64_t n) {
    if constexpr (sizeof(T) == sizeof(float)) {
      const bool dense = is_dense(operand);
      encode(dense ? own_memory<std::uint16_t>(operand, begin) : packed_, buffers_[operand], n,
             tensor_.packing_of(operand));
      if (!dense) scatter(packed_, tensor_, operand, begin, n);
    }
  }

  const Tensor& tensor_;
  alignas(64) T buffers_[operand_count][tile_size];
  alignas(64) std::uint16_t packed_[tile_size];
};

template <class T>
void step_tiles(const Tensor& tensor, std::int64_t begin, std::int64_t end, Formula<T> formula) {
  const Update& update = *tensor.update;
  const Scalars<T> c(update.coefficients);
  TileReader<T> reader(tensor);
  alignas(64) T prepared_grad[tile_size];

  for (std::int64_t i = begin; i < end; i += tile_size) {
    const std::int64_t n = end - i < tile_size ? end - i : tile_size;
    Tile<T> tile = {reader.read(param, i, n), reader.read(grad, i, n), reader.read(square_avg, i, n),
                    reader.read(grad_avg, i, n), reader.read(momentum_buffer, i, n)};
    if (update.prepares_grad) {
      (update.adds_l2 ? prepare<true, T> : prepare<false, T>)(prepared_grad, tile.grad, tile.param, n, c);
      tile.grad = prepared_grad;
    }
    if (update.decays_param) decay(tile.param, n, c);
    formula(tile, n, update.coefficients);
    for (Operand operand : {param, square_avg, grad_avg, momentum_buffer}) reader.write_back(operand, i, n);
  }
}

template <class T>
void step_range(const Tensor& tensor, std::int64_t begin, std::int64_t end) noexcept {
  const Update& update = *tensor.update;
  const Formula<T> formula = formulas<T>[static_cast<int>(update.rule)];
  const bool is_packed = tensor.packing[param] != Packing::none || tensor.packing[grad] != Packing::none;
  if (tensor.layout != nullptr || is_packed || update.prepares_grad || update.decays_param) {
    step_tiles(tensor, begin, end, formula);
    return;
  }
  const auto at = [&](Operand operand) {
    std::byte* data = tensor.data[operand];
    return data == nullptr ? nullptr : reinterpret_cast<T*>(data) + begin;
  };
  formula({at(param), at(grad), at(square_avg), at(grad_avg), at(momentum_buffer)}, end - begin, update.coefficients);
}

// ---- Reductions over gradients --------------------------------------------------------------------------------------

// Calls visit(gradients, n) for the tiles of a range, in order. All but the last have `tile_size` elements.
template <class T, class Visit>
void for_each_grad_tile(const Tensor& tensor, std::int64_t begin, std::int64_t size, Visit visit) {
  TileReader<T> reader(tensor);
  for (std::int64_t i = 0; i < size; i += tile_size) {
    const std::int64_t n = size - i < tile_size ? size - i : tile_size;
    visit(reader.read(grad, begin + i, n), n);
  }
}

constexpr int partial_count = 16;
static_assert(tile_size % partial_count == 0, "every tile but the last must begin at the first partial sum");

template <class T>
void add_squares(double* __restrict partials, const T* g, std::int64_t n, T scale) {
  std::int64_t i = 0;
  for (; i + partial_count <= n; i += partial_count) {
    for (int j = 0; j < partial_count; ++j) {
      // NOLINTNEXTLINE(clang-analyzer-core.*): gather() has filled the tile
      const auto x = static_cast<double>(scale * g[i + j]);
      partials[j] = partials[j] + x * x;
    }
  }
  for (int j = 0; i + j < n; ++j) {
    const auto x = static_cast<double>(scale * g[i + j]);
    partials[j] = partials[j] + x * x;
  }
}

template <class T>
double sum_of_squares(const Tensor& tensor, std::int64_t begin, std::int64_t size) noexcept {
  const auto scale = static_cast<T>(tensor.update->coefficients.grad_scale);
  double partials[partial_count] = {};
  for_each_grad_tile<T>(tensor, begin, size, [&](const T* g, std::int64_t n) { add_squares(partials, g, n, scale); });
  for (int width = partial_count / 2; width > 0; width /= 2) {
    for (int j = 0; j < width; ++j) partials[j] = partials[j] + partials[j + width];
  }
  return partials[0];
}

template <class T>
bool is_finite(const Tensor& tensor) noexcept {
  const auto scale = static_cast<T>(tensor.update->coefficients.grad_scale);
  bool finite = true;
  for_each_grad_tile<T>(tensor, 0, tensor.size, [&](const T* g, std::int64_t n) {
    for (std::int64_t i = 0; i < n; ++i) {
      const T x = scale * g[i];          // NOLINT(clang-analyzer-core.*): gather() has filled the tile
      finite = finite && x - x == T(0);  // NOLINT(misc-redundant-expression): infinity minus itself is NaN
    }
  });
  return finite;
}

}  // namespace

extern const Kernels RMSPROP_KERNELS;
constexpr Kernels RMSPROP_KERNELS = {{step_range<float>, step_range<double>},
                                     {sum_of_squares<float>, sum_of_squares<double>},
                                     {is_finite<float>, is_finite<double>}};

}  // namespace rmsprop
