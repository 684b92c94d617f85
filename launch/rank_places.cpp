#include "launch/rank_places.hpp"

namespace supernode::launch {

RankPlaces rank_places(const Context& context) {
  const Communicator& world = *context.world;
  const Communicator host_ranks = world.split_by_host();
  return {world.size(), static_cast<int>(world.sum(static_cast<long long>(host_ranks.rank() == 0))),
          oversubscribed(world, context.host)};
}

}  // namespace supernode::launch
