#include "overlap.hpp"

#include <pybind11/numpy.h>

#include <algorithm>
#include <cstdlib>
#include <numeric>
#include <string>

namespace rmsprop::bindings {

namespace py = pybind11;

namespace {

// Runs that are one after the other count as one.
void add_dimension(Area& area, std::int64_t length, std::int64_t stride) {
  if (length <= 1) return;
  const auto step = static_cast<std::uintptr_t>(std::abs(stride));
  if (area.spacing == 0 && step == area.width) {
    area.width *= static_cast<std::uintptr_t>(length);
  } else {
    area.spacing = std::gcd(area.spacing, step);
  }
}

// Both have the same spacing, and their runs are in different parts of it, like the columns of one matrix.
bool are_apart_by_spacing(const Area& a, const Area& b) {
  const std::uintptr_t spacing = std::gcd(a.spacing, b.spacing);
  if (spacing == 0) return false;
  const std::uintptr_t offset =
      b.begin >= a.begin ? (b.begin - a.begin) % spacing : (spacing - (a.begin - b.begin) % spacing) % spacing;
  return offset >= a.width && offset + b.width <= spacing;
}

// In elements; scales are dense, whatever the layout.
std::int64_t length_of(const Tensor& tensor, Operand operand) {
  return operand < elementwise_count ? tensor.size : blocks_of(tensor.size);
}

py::array as_numpy(const Tensor& tensor, Operand operand) {
  const std::int64_t item = tensor.item_size_of(operand);
  std::vector<py::ssize_t> shape = {length_of(tensor, operand)};
  std::vector<py::ssize_t> strides = {item};
  if (const Layout* layout = operand < elementwise_count ? tensor.layout : nullptr) {
    const auto& own = layout->strides[operand];
    shape.assign(layout->shape.begin(), layout->shape.begin() + layout->ndim);
    strides.assign(own.begin(), own.begin() + layout->ndim);
  }
  // With a capsule as the owner NumPy does not copy.
  const py::dtype bytes("V" + std::to_string(item));
  return py::array(bytes, shape, strides, tensor.data[operand], py::capsule(tensor.data[operand], [](void*) {}));
}

// The general problem is a bounded integer program; NumPy solves it, and gives up only on cases that no real array has.
bool share_memory(const py::array& a, const py::array& b) {
  const auto numpy = py::module_::import("numpy");
  constexpr std::int64_t max_work = 1'000'000;
  try {
    return numpy.attr("shares_memory")(a, b, max_work).cast<bool>();
  } catch (py::error_already_set& error) {
    if (!error.matches(numpy.attr("exceptions").attr("TooHardError"))) throw;
    return true;
  }
}

// Exact, for areas whose address ranges intersect.
bool overlap(std::span<const Tensor> tensors, const Area& a, const Area& b, bool& asked) {
  if (are_apart_by_spacing(a, b)) return false;
  if (a.spacing == 0 && b.spacing == 0) return true;
  asked = true;
  return share_memory(as_numpy(tensors[a.id.tensor], a.id.operand), as_numpy(tensors[b.id.tensor], b.id.operand));
}

// Whether areas that all have the same spacing are pairwise disjoint by it: their places within the spacing, in order,
// do not intersect, nor do the last and the first one around its end.
bool are_all_apart_by_spacing(std::span<const Area> areas) {
  const std::uintptr_t spacing = areas.front().spacing;
  if (spacing == 0) return false;
  std::vector<std::pair<std::uintptr_t, std::uintptr_t>> places;
  places.reserve(areas.size());
  for (const Area& area : areas) {
    if (area.spacing != spacing) return false;
    places.emplace_back((area.begin - areas.front().begin) % spacing, area.width);
  }
  std::sort(places.begin(), places.end());
  for (std::size_t i = 1; i < places.size(); ++i) {
    if (places[i - 1].first + places[i - 1].second > places[i].first) return false;
  }
  return places.back().first + places.back().second <= spacing + places.front().first;
}

// Named in the order of the tensors.
Overlap in_order(ArrayId a, ArrayId b) {
  const bool is_in_order = a.tensor < b.tensor || (a.tensor == b.tensor && a.operand < b.operand);
  return is_in_order ? Overlap{a, b} : Overlap{b, a};
}

}  // namespace

Area area_of(const Tensor& tensor, ArrayId id) {
  const std::int64_t item = tensor.item_size_of(id.operand);
  Area area;
  area.id = id;
  area.begin = reinterpret_cast<std::uintptr_t>(tensor.data[id.operand]);
  area.width = static_cast<std::uintptr_t>(item);
  if (tensor.layout == nullptr || id.operand >= elementwise_count) {
    area.width *= static_cast<std::uintptr_t>(length_of(tensor, id.operand));
    area.end = area.begin + area.width;
    return area;
  }
  const Layout& layout = *tensor.layout;
  std::uintptr_t reach = 0;
  for (int d = layout.ndim - 1; d >= 0; --d) {
    const std::int64_t stride = layout.strides[id.operand][d];
    const auto distance = static_cast<std::uintptr_t>(std::abs(stride) * (layout.shape[d] - 1));
    add_dimension(area, layout.shape[d], stride);
    if (stride < 0) area.begin -= distance;
    reach += distance;
  }
  area.end = area.begin + reach + static_cast<std::uintptr_t>(item);
  return area;
}

std::optional<Overlap> Disjointness::find(std::span<const Tensor> tensors, bool& asked) {
  if (!written_is_proven_) {
    gradients_are_proven_ = false;
    if (auto found = find_written(tensors, asked)) return found;
    written_is_proven_ = true;
  }
  if (!gradients_are_proven_) {
    if (auto found = find_gradients(tensors, asked)) return found;
    gradients_are_proven_ = true;
  }
  return std::nullopt;
}

std::optional<Overlap> Disjointness::find_written(std::span<const Tensor> tensors, bool& asked) {
  written_.clear();
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    if (tensors[i].size == 0) continue;
    for (const Operand operand : operands) {
      if (operand != grad && tensors[i].data[operand] != nullptr) written_.push_back(area_of(tensors[i], {i, operand}));
    }
  }
  std::sort(written_.begin(), written_.end(), [](const Area& a, const Area& b) { return a.begin < b.begin; });
  reach_.clear();
  std::uintptr_t reach = 0;
  for (const Area& area : written_) reach_.push_back(reach = std::max(reach, area.end));

  // Areas whose address ranges intersect form a cluster; most clusters are a single area.
  for (std::size_t begin = 0, end = 0; begin < written_.size(); begin = end) {
    for (end = begin + 1; end < written_.size() && written_[end].begin < reach_[end - 1];) ++end;
    const std::span<const Area> cluster(written_.data() + begin, end - begin);
    if (cluster.size() == 1 || are_all_apart_by_spacing(cluster)) continue;
    for (std::size_t i = 0; i < cluster.size(); ++i) {
      for (std::size_t j = i + 1; j < cluster.size() && cluster[j].begin < cluster[i].end; ++j) {
        if (overlap(tensors, cluster[i], cluster[j], asked)) return in_order(cluster[i].id, cluster[j].id);
      }
    }
  }
  return std::nullopt;
}

std::optional<Overlap> Disjointness::find_gradients(std::span<const Tensor> tensors, bool& asked) const {
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    if (tensors[i].data[grad] == nullptr || tensors[i].size == 0) continue;
    const Area read = area_of(tensors[i], {i, grad});
    // Those that begin before it ends, from the last one down to where all others end before it begins.
    auto place = std::partition_point(written_.begin(), written_.end(),
                                      [&](const Area& area) { return area.begin < read.end; }) -
                 written_.begin();
    while (place > 0 && reach_[static_cast<std::size_t>(place - 1)] > read.begin) {
      const Area& area = written_[static_cast<std::size_t>(--place)];
      if (area.end > read.begin && overlap(tensors, area, read, asked)) return Overlap{area.id, read.id};
    }
  }
  return std::nullopt;
}

}  // namespace rmsprop::bindings
