#include "overlap.hpp"

#include <algorithm>

namespace rmsprop::bindings {

bool OverlapCheck::Entry::operator==(const Entry& other) const {
  return extent.begin == other.extent.begin && extent.end == other.extent.end && id == other.id;
}

// An empty array meets nothing.
bool OverlapCheck::Entry::meets(const Entry& other) const {
  return extent.begin < other.extent.end && other.extent.begin < extent.end && extent.begin < extent.end &&
         other.extent.begin < other.extent.end;
}

std::optional<OverlapCheck::Pair> OverlapCheck::find_among_written(
    const std::function<bool(ArrayId, ArrayId)>& overlap) {
  sorted_ = written_;
  std::erase_if(sorted_, [](const Entry& entry) { return entry.extent.begin == entry.extent.end; });
  std::sort(sorted_.begin(), sorted_.end(),
            [](const Entry& a, const Entry& b) { return a.extent.begin < b.extent.begin; });
  extents_disjoint_ = true;
  for (auto first = sorted_.begin(); first != sorted_.end(); ++first) {
    for (auto second = first + 1; second != sorted_.end() && first->meets(*second); ++second) {
      extents_disjoint_ = false;
      if (overlap(first->id, second->id)) return Pair{std::min(first->id, second->id), std::max(first->id, second->id)};
    }
  }
  return std::nullopt;
}

std::optional<OverlapCheck::Pair> OverlapCheck::find_for(const Entry& read,
                                                         const std::function<bool(ArrayId, ArrayId)>& overlap) {
  // Of disjoint extents in order of address, those that meet `read` are neighbours, and the first of them is the first
  // that ends after it begins. Extents that overlap have no such order and are all looked at.
  auto entry = sorted_.begin();
  if (extents_disjoint_) {
    entry = std::partition_point(sorted_.begin(), sorted_.end(),
                                 [&](const Entry& e) { return e.extent.end <= read.extent.begin; });
  }
  for (; entry != sorted_.end(); ++entry) {
    if (entry->meets(read)) {
      if (overlap(entry->id, read.id)) return Pair{entry->id, read.id};
    } else if (extents_disjoint_) {
      break;
    }
  }
  return std::nullopt;
}

std::optional<OverlapCheck::Pair> OverlapCheck::find(const std::function<bool(ArrayId, ArrayId)>& overlap) {
  const bool same_written = !proven_written_.empty() && written_ == proven_written_;
  if (same_written && read_ == proven_read_) return std::nullopt;

  bool by_extents = true;  // nothing so far needed the exact comparison
  const auto exact = [&](ArrayId a, ArrayId b) {
    by_extents = false;
    return overlap(a, b);
  };
  if (!same_written) {
    proven_written_.clear();
    if (const auto pair = find_among_written(exact)) return pair;
  }
  for (std::size_t i = 0; i < read_.size(); ++i) {
    const bool same_read = same_written && i < proven_read_.size() && read_[i] == proven_read_[i];
    if (same_read) continue;
    if (const auto pair = find_for(read_[i], exact)) return pair;
  }
  if (by_extents) {
    proven_written_ = written_;
    proven_read_ = read_;
  } else {
    proven_written_.clear();
  }
  return std::nullopt;
}

}  // namespace rmsprop::bindings
