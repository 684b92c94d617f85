#include "memory_pool/ring.hpp"

#include <algorithm>
#include <string>

#include "runtime/core/error.hpp"
#include "runtime/core/random.hpp"

namespace supernode::pool {

Ring::Ring(const std::vector<int>& owners, int virtual_nodes) {
  if (owners.empty()) throw UsageError("the pool needs at least one owner");
  if (virtual_nodes < 1) throw UsageError("pool.virtual_nodes must be at least 1");
  for (const int owner : owners) {
    if (owner < 0) throw UsageError("pool owner " + std::to_string(owner) + " is not a rank");
    const auto number = static_cast<std::size_t>(owner);
    if (live_.size() <= number) live_.resize(number + 1);
    if (live_[number]) throw UsageError("pool owner " + std::to_string(owner) + " is listed twice");
    live_[number] = true;
    for (int node = 0; node < virtual_nodes; ++node)
      points_.push_back({mix64(mix64(number) ^ static_cast<std::uint64_t>(node)), owner});
  }
  live_count_ = static_cast<int>(owners.size());
  std::sort(points_.begin(), points_.end());
}

std::size_t Ring::first_point(const Key& key) const {
  // The hash mixes both halves again: the bucket within an owner comes from the same key and must not follow the ring.
  const Point wanted{mix64(key.low ^ mix64(key.high)), -1};
  const auto found = std::lower_bound(points_.begin(), points_.end(), wanted);
  return found == points_.end() ? 0 : static_cast<std::size_t>(found - points_.begin());
}

int Ring::home_of(const Key& key) const { return points_[first_point(key)].owner; }

int Ring::owner_of(const Key& key) const {
  if (live_count_ == 0) return -1;
  std::size_t i = first_point(key);
  while (!live_[static_cast<std::size_t>(points_[i].owner)]) i = i + 1 == points_.size() ? 0 : i + 1;
  return points_[i].owner;
}

bool Ring::is_live(int owner) const {
  return owner >= 0 && static_cast<std::size_t>(owner) < live_.size() && live_[static_cast<std::size_t>(owner)];
}

void Ring::set_live(int owner, bool live) {
  const bool known = std::any_of(points_.begin(), points_.end(), [&](const Point& p) { return p.owner == owner; });
  if (!known || is_live(owner) == live) return;
  live_[static_cast<std::size_t>(owner)] = live;
  live_count_ += live ? 1 : -1;
  ++version_;
}

}  // namespace supernode::pool
