#pragma once
// Which tokens of a sequence a die has computed itself, where all dies of its instance share the sequence.

#include <algorithm>
#include <vector>

#include "moe/sequence_chunk.hpp"

namespace supernode::serving {

class ComputedTokens {
 public:
  void add(moe::TokenShare range) {
    shared_ = true;
    if (range.count > 0) ranges_.push_back(range);
  }
  /// Whether it is this die's: all are, of a sequence that nobody shares. O(steps)
  bool contains(int position) const {
    return !shared_ || std::any_of(ranges_.begin(), ranges_.end(), [&](const moe::TokenShare& range) {
      return position >= range.first && position < range.first + range.count;
    });
  }

 private:
  bool shared_ = false;
  std::vector<moe::TokenShare> ranges_;
};

}  // namespace supernode::serving
