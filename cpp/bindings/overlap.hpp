// Proves that no array written by a step overlaps another array of that step.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <utility>
#include <vector>

#include "views.hpp"

namespace rmsprop::bindings {

// Collects the extents of a step's arrays and looks for a written one that overlaps any other.
//
// Disjoint extents prove disjoint arrays, and whether extents are disjoint depends on nothing else: so a proof is kept,
// and a step with the extents of the step before it is done after one comparison. A step with new gradients looks each
// of them up among the sorted extents of what is written. Only arrays whose extents do overlap, such as the columns of
// one matrix, are compared exactly, in every step.
class OverlapCheck {
 public:
  using ArrayId = std::uint32_t;
  using Pair = std::pair<ArrayId, ArrayId>;

  void clear() {
    written_.clear();
    read_.clear();
  }
  void add_written(const Extent& extent, ArrayId id) { written_.push_back({extent, id}); }
  void add_read(const Extent& extent, ArrayId id) { read_.push_back({extent, id}); }

  // The first pair found to overlap, if any. `overlap` decides exactly about two arrays whose extents overlap.
  std::optional<Pair> find(const std::function<bool(ArrayId, ArrayId)>& overlap);

 private:
  struct Entry {
    Extent extent;
    ArrayId id;
    bool operator==(const Entry& other) const;
    bool meets(const Entry& other) const;
  };

  std::optional<Pair> find_among_written(const std::function<bool(ArrayId, ArrayId)>& overlap);
  std::optional<Pair> find_for(const Entry& read, const std::function<bool(ArrayId, ArrayId)>& overlap);

  std::vector<Entry> written_;
  std::vector<Entry> read_;
  // The proof: these extents are disjoint (among the read ones they need not be).
  std::vector<Entry> proven_written_;
  std::vector<Entry> proven_read_;
  std::vector<Entry> sorted_;      // the written ones, by address
  bool extents_disjoint_ = false;  // of the written ones
};

}  // namespace rmsprop::bindings
