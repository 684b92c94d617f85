#pragma once
// Whether the ranks of a host can run without sharing processors.

#include <span>
#include <vector>

namespace supernode {

/// How many ranks can have a processor of their own at the same time, when rank r may run on processors[r] only
/// (numbers of cores, or of processing units). O(ranks * processors).
int ranks_with_own_processor(std::span<const std::vector<int>> processors);

}  // namespace supernode
