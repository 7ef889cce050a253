// The loops over the rules. This file is compiled once per instruction set (cmake/InstructionSets.cmake), each time
// with another RMSPROP_KERNELS, and each copy exports only its entry points, under that name.
//
// A rule is applied to dense tiles of T. If a tensor is dense, the whole range is one tile in the caller's memory.
// Otherwise tiles pass through the first-level cache: gathered if they are strided, decoded if they are packed, and
// written back the same way. Each rule has two loops: one for gradients and parameters as they are, and one with the
// stages before it, of which those that are not asked for change nothing. So there is no kernel for each combination.

#include "kernels.hpp"

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "rules/rules.hpp"
#include "rules/stages.hpp"
#include "storage/tiles.hpp"

namespace rmsprop {
namespace {

template <class T>
using Formula = void (*)(const Tile<T>&, std::int64_t, const Update&);

template <int, class T>
struct RunOf {
  using type = T* __restrict;
};

// The caller has proven that no written operand overlaps another one, so this loop can be vectorised.
template <class Rule, bool has_stages, class T, int... used>
void apply_to(std::int64_t n, const Update& update, typename RunOf<used, T>::type... runs) {
  const Scalars<T> c(update.coefficients);
  const bool adds_l2 = update.adds_l2, decays = update.decays_param;
  for (std::int64_t i = 0; i < n; ++i) {
    Element<T> e = {};
    ((e.*members<T>[used] = runs[i]), ...);
    if constexpr (has_stages) {
      e.grad = prepared(e.grad, e.param, adds_l2, c);
      e.param = decayed(e.param, decays, c);
    }
    Rule::update(e, c);
    ((used == grad ? void() : void(runs[i] = e.*members<T>[used])), ...);
  }
}

// The operands whose bits are set in a mask.
template <unsigned mask>
constexpr auto operands_in = [] {
  std::array<int, std::popcount(mask)> operands = {};
  std::size_t count = 0;
  for (int operand = 0; operand < operand_count; ++operand) {
    if ((mask >> operand & 1u) != 0) operands[count++] = operand;
  }
  return operands;
}();

template <class Rule, bool has_stages, class T>
void apply(const Tile<T>& tile, std::int64_t n, const Update& update) {
  static constexpr auto& used = operands_in<bit(param) | bit(grad) | Rule::state>;
  [&]<std::size_t... k>(std::index_sequence<k...>) {
    apply_to<Rule, has_stages, T, used[k]...>(n, update, tile[used[k]]...);
  }(std::make_index_sequence<used.size()>());
}

template <bool has_stages, class T, class... Rules>
constexpr std::array<Formula<T>, rule_count> formulas_of(RuleList<Rules...>) {
  std::array<Formula<T>, rule_count> table = {};
  ((table[static_cast<int>(Rules::rule)] = apply<Rules, has_stages, T>), ...);
  return table;
}

template <class T>
constexpr std::array formulas = {formulas_of<false, T>(AllRules()), formulas_of<true, T>(AllRules())};

template <class T>
Formula<T> formula_of(const Update& update) {
  return formulas<T>[update.prepares_grad || update.decays_param ? 1 : 0][static_cast<int>(update.rule)];
}

template <class T>
void average(T* __restrict ema, const T* __restrict w, std::int64_t n, const Scalars<T>& c) {
  for (std::int64_t i = 0; i < n; ++i) ema[i] = averaged(ema[i], w[i], c);
}

// Room for buffers: six of 128 doubles; and, where tiles are whole blocks, all that there may be of one block each.
constexpr std::size_t step_bytes = 6 << 10;
constexpr std::size_t step_bytes_of_blocks = 9 * block_size * sizeof(float);

template <class T, std::size_t bytes>
void step_tiles(const Tensor& tensor, std::int64_t begin, std::int64_t end) {
  const Update& update = *tensor.update;
  const Formula<T> formula = formula_of<T>(update);
  const Scalars<T> c(update.coefficients);
  constexpr unsigned all_operands = (1u << tile_count) - 1;
  Tiles<T, bytes> tiles(tensor, all_operands, begin);
  for (std::int64_t i = begin; i < end; i += tiles.size()) {
    const std::int64_t n = end - i < tiles.size() ? end - i : tiles.size();
    const Tile<T>& tile = tiles.read(n);
    formula(tile, n, update);
    if (update.averages_param) average(tile[ema], tile[param], n, c);
    tiles.write_back(n);
    tiles.advance(n);
  }
}

// Whether every operand is used as a tile itself, without a buffer.
bool is_plain(const Tensor& tensor) {
  static_assert(static_cast<int>(Packing::none) == 0, "all are none where all bits are 0");
  return tensor.layout == nullptr && bits_as<std::uint64_t>(tensor.packing) == 0;
}

template <class T, std::size_t... operands>
Tile<T> whole_tile(const Tensor& tensor, std::int64_t begin, std::index_sequence<operands...>) {
  const auto at = [&](std::byte* data) { return data == nullptr ? nullptr : reinterpret_cast<T*>(data) + begin; };
  return {at(tensor.data[operands])...};
}

template <class T>
void step_range(const Tensor& tensor, std::int64_t begin, std::int64_t end) noexcept {
  if (!is_plain(tensor) || tensor.update->averages_param) {
    const bool blocks = tensor.has_blocks();
    return (blocks ? step_tiles<T, step_bytes_of_blocks> : step_tiles<T, step_bytes>)(tensor, begin, end);
  }
  const Formula<T> formula = formula_of<T>(*tensor.update);
  formula(whole_tile<T>(tensor, begin, std::make_index_sequence<operand_count>()), end - begin, *tensor.update);
}

// ---- Reductions over gradients --------------------------------------------------------------------------------------

// Room for the buffers of a gradient.
constexpr std::size_t grad_bytes = 2 << 10;

// Calls visit(gradients, n) for the tiles of a range, in order.
template <class T, class Visit>
void for_each_grad_tile(const Tensor& tensor, std::int64_t begin, std::int64_t size, Visit visit) {
  if (is_plain(tensor)) return visit(reinterpret_cast<const T*>(tensor.data[grad]) + begin, size);
  Tiles<T, grad_bytes> tiles(tensor, bit(grad), begin);
  for (std::int64_t i = 0; i < size; i += tiles.size()) {
    const std::int64_t n = size - i < tiles.size() ? size - i : tiles.size();
    visit(tiles.read(n)[grad], n);
    tiles.advance(n);
  }
}

constexpr int partial_count = 16;
static_assert(tile_granularity % partial_count == 0, "every tile but the last must begin at the first partial sum");

template <class T>
void add_squares(double* __restrict partials, const T* g, std::int64_t n, T scale) {
  std::int64_t i = 0;
  for (; i + partial_count <= n; i += partial_count) {
    for (int j = 0; j < partial_count; ++j) {
      // NOLINTNEXTLINE(clang-analyzer-core.*): the tile is filled
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
bool is_finite(const Tensor& tensor, std::int64_t begin, std::int64_t end) noexcept {
  const auto scale = static_cast<T>(tensor.update->coefficients.grad_scale);
  bool finite = true;
  for_each_grad_tile<T>(tensor, begin, end - begin, [&](const T* g, std::int64_t n) {
    for (std::int64_t i = 0; i < n; ++i) {
      const T x = scale * g[i];          // NOLINT(clang-analyzer-core.*): the tile is filled
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
