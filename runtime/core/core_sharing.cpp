#include "runtime/core/core_sharing.hpp"

#include <map>
#include <set>

namespace supernode {
namespace {

/// A matching of ranks with processors, grown by augmenting paths.
class Matching {
 public:
  explicit Matching(std::span<const std::vector<int>> processors) : processors_(processors) {}

  bool place(int rank) {
    tried_.clear();
    return find(rank);
  }

 private:
  /// Gives `rank` a free processor, or one whose rank can move to another.
  bool find(int rank) {
    const std::vector<int>& mine = processors_[static_cast<std::size_t>(rank)];
    for (const int processor : mine)
      if (rank_on_.emplace(processor, rank).second) return true;
    for (const int processor : mine)
      if (tried_.insert(processor).second && find(rank_on_[processor])) {
        rank_on_[processor] = rank;
        return true;
      }
    return false;
  }

  std::span<const std::vector<int>> processors_;
  std::map<int, int> rank_on_;
  std::set<int> tried_;
};

}  // namespace

int ranks_with_own_processor(std::span<const std::vector<int>> processors) {
  Matching matching(processors);
  int placed = 0;
  for (int rank = 0; rank < static_cast<int>(processors.size()); ++rank) placed += matching.place(rank) ? 1 : 0;
  return placed;
}

}  // namespace supernode
