#pragma once
// Consistent hashing: which owner a key belongs to, and what changes when owners leave.

#include <cstdint>
#include <vector>

#include "memory_pool/key.hpp"

namespace supernode::pool {

/// A membership view: owners on a ring of 64-bit points, `virtual_nodes` points each; a key belongs to the first point
/// at or after its hash. Dropping an owner moves only its keys, spread over all others. With v points each, an owner's
/// share deviates from 1/n by about 1/sqrt(v). Equal arguments give equal rings on all ranks; drops are local.
class Ring {
 public:
  /// `owners`: distinct numbers >= 0. @throws UsageError when empty or not distinct, or virtual_nodes < 1.
  Ring(const std::vector<int>& owners, int virtual_nodes);

  /// The owner while all are alive. O(log(n v)).
  int home_of(const Key& key) const;
  /// The owner now; -1 when none is left. O(log(n v)) plus the points of dropped owners that are passed.
  int owner_of(const Key& key) const;

  bool is_live(int owner) const;  ///< false for numbers that are no owner
  int live_count() const { return live_count_; }
  /// Takes an owner out or back in; counts a new version when that changes anything.
  void drop(int owner) { set_live(owner, false); }
  void restore(int owner) { set_live(owner, true); }
  std::uint64_t version() const { return version_; }  ///< 1 at first

 private:
  struct Point {
    std::uint64_t place;
    int owner;
    friend auto operator<=>(const Point&, const Point&) = default;
  };
  std::size_t first_point(const Key& key) const;
  void set_live(int owner, bool live);

  std::vector<Point> points_;  ///< ascending
  std::vector<bool> live_;     ///< by owner number
  int live_count_ = 0;
  std::uint64_t version_ = 1;
};

}  // namespace supernode::pool
