#pragma once
// Where the ranks of a benchmark are.

#include "launch/command.hpp"

namespace supernode::launch {

/// Equal on all ranks.
struct RankPlaces {
  int ranks = 1, hosts = 1;
  bool oversubscribed = false;  ///< ranks share cores, so that times are no speeds
};

/// The ranks of context.world. Collective over it.
RankPlaces rank_places(const Context& context);

}  // namespace supernode::launch
