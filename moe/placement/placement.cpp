#include "moe/placement/placement.hpp"

#include <algorithm>
#include <numeric>

#include <fmt/format.h>

#include "collectives/expert_partition.hpp"
#include "runtime/core/error.hpp"

namespace supernode::moe {
namespace {

/// The pack of every item, and its position there.
struct Packing {
  std::vector<int> pack, position;
};

/// Deals items into `packs` of equal size: the heaviest first, each to the lightest pack that has room.
Packing pack_evenly(std::span<const float> weights, int packs) {
  const int items = static_cast<int>(weights.size()), room = items / packs;
  Packing result{std::vector<int>(weights.size()), std::vector<int>(weights.size())};
  std::vector<int> order(weights.size());
  std::iota(order.begin(), order.end(), 0);
  if (room == 1) {
    result.pack = order;
    return result;
  }
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) {
    return weights[static_cast<std::size_t>(a)] > weights[static_cast<std::size_t>(b)];
  });
  std::vector<float> filled(static_cast<std::size_t>(packs), 0.0f);
  std::vector<int> count(static_cast<std::size_t>(packs), 0);
  for (const int item : order) {
    std::size_t best = filled.size();
    for (std::size_t pack = 0; pack < filled.size(); ++pack)
      if (count[pack] < room && (best == filled.size() || filled[pack] < filled[best])) best = pack;
    const auto i = static_cast<std::size_t>(item);
    result.pack[i] = static_cast<int>(best);
    result.position[i] = count[best]++;
    filled[best] += weights[i];
  }
  return result;
}

struct Copies {
  std::vector<int> expert;  ///< of every copy
  std::vector<int> count;   ///< of every expert
};

Copies copy_experts(std::span<const float> loads, int slots) {
  Copies result{std::vector<int>(loads.size()), std::vector<int>(loads.size(), 1)};
  std::iota(result.expert.begin(), result.expert.end(), 0);
  while (result.expert.size() < static_cast<std::size_t>(slots)) {
    std::size_t best = 0;
    float best_share = -1;
    for (std::size_t expert = 0; expert < loads.size(); ++expert) {
      const float share = loads[expert] / static_cast<float>(result.count[expert]);
      const bool fewer = share == 0 && best_share == 0 && result.count[expert] < result.count[best];
      if (share > best_share || fewer) {
        best = expert;
        best_share = share;
      }
    }
    result.expert.push_back(static_cast<int>(best));
    ++result.count[best];
  }
  return result;
}

}  // namespace

void check(const PlacementShape& s) {
  const std::pair<const char*, int> counts[] = {
      {"experts", s.experts}, {"replicas", s.slots}, {"groups", s.groups}, {"nodes", s.nodes}, {"ranks", s.ranks}};
  for (const auto& [name, count] : counts)
    if (count < 1) throw UsageError(fmt::format("placement: {} {}; at least 1 is needed", count, name));
  if (s.slots < s.experts)
    throw UsageError(fmt::format("placement: {} replicas do not hold {} experts", s.slots, s.experts));
  if (s.slots % s.ranks != 0)
    throw UsageError(fmt::format("placement: {} ranks do not divide {} replicas", s.ranks, s.slots));
  if (!s.hierarchical()) return;
  if (s.experts % s.groups != 0)
    throw UsageError(fmt::format("placement: {} groups do not divide {} experts", s.groups, s.experts));
  if (s.ranks % s.nodes != 0)
    throw UsageError(fmt::format("placement: {} nodes do not divide {} ranks", s.nodes, s.ranks));
}

std::vector<int> place_experts(std::span<const double> loads, const PlacementShape& shape) {
  expect(static_cast<int>(loads.size()) == shape.experts, "place_experts: loads and experts differ");
  const int nodes = shape.hierarchical() ? shape.nodes : 1, groups = shape.hierarchical() ? shape.groups : 1;
  const int group_size = shape.experts / groups, ranks_per_node = shape.ranks / nodes;
  const int experts_per_node = shape.experts / nodes, slots_per_node = shape.slots / nodes;

  std::vector<float> group_loads(static_cast<std::size_t>(groups), 0.0f);
  for (int expert = 0; expert < shape.experts; ++expert)
    group_loads[static_cast<std::size_t>(expert / group_size)] +=
        static_cast<float>(loads[static_cast<std::size_t>(expert)]);
  const Packing group_packing = pack_evenly(group_loads, nodes);
  std::vector<int> by_node(loads.size());  // experts, those of a node together
  for (int expert = 0; expert < shape.experts; ++expert) {
    const auto group = static_cast<std::size_t>(expert / group_size);
    const int place = group_packing.pack[group] * (groups / nodes) + group_packing.position[group];
    by_node[static_cast<std::size_t>(place * group_size + expert % group_size)] = expert;
  }

  std::vector<int> placement(static_cast<std::size_t>(shape.slots));
  for (int node = 0; node < nodes; ++node) {
    const auto experts = std::span(by_node).subspan(static_cast<std::size_t>(node * experts_per_node),
                                                    static_cast<std::size_t>(experts_per_node));
    std::vector<float> node_loads;
    for (const int expert : experts) node_loads.push_back(static_cast<float>(loads[static_cast<std::size_t>(expert)]));
    const Copies copies = copy_experts(node_loads, slots_per_node);
    std::vector<float> shares;
    for (const int expert : copies.expert) {
      const auto e = static_cast<std::size_t>(expert);
      shares.push_back(node_loads[e] / static_cast<float>(copies.count[e]));
    }
    const Packing packing = pack_evenly(shares, ranks_per_node);
    for (std::size_t copy = 0; copy < shares.size(); ++copy) {
      const int rank = node * ranks_per_node + packing.pack[copy];
      placement[static_cast<std::size_t>(rank * shape.slots_per_rank() + packing.position[copy])] =
          experts[static_cast<std::size_t>(copies.expert[copy])];
    }
  }
  return placement;
}

std::vector<int> count_copies(std::span<const int> placement, int experts) {
  std::vector<int> count(static_cast<std::size_t>(experts), 0);
  for (const int expert : placement) ++count[static_cast<std::size_t>(expert)];
  return count;
}

int count_redundant(std::span<const int> placement, const PlacementShape& shape) {
  int redundant = 0;
  for (int slot = 0; slot < shape.slots; ++slot) {
    const auto first = placement.begin() + shape.rank_of(slot) * shape.slots_per_rank(),
               here = placement.begin() + slot;
    if (std::find(first, here, *here) != here) ++redundant;
  }
  return redundant;
}

std::vector<double> rank_loads(std::span<const double> loads, std::span<const int> placement,
                               const PlacementShape& shape) {
  const std::vector<int> copies = count_copies(placement, shape.experts);
  std::vector<double> result(static_cast<std::size_t>(shape.ranks), 0.0);
  for (int slot = 0; slot < shape.slots; ++slot) {
    const auto expert = static_cast<std::size_t>(placement[static_cast<std::size_t>(slot)]);
    result[static_cast<std::size_t>(shape.rank_of(slot))] += loads[expert] / copies[expert];
  }
  return result;
}

std::vector<double> unplaced_rank_loads(std::span<const double> loads, int ranks) {
  const collectives::ExpertPartition partition(static_cast<int>(loads.size()), ranks);
  std::vector<double> result;
  for (int rank = 0; rank < ranks; ++rank) {
    const auto first = loads.begin() + partition.first(rank);
    result.push_back(std::accumulate(first, first + partition.count(rank), 0.0));
  }
  return result;
}

double max_over_mean(std::span<const double> loads) {
  const double sum = std::accumulate(loads.begin(), loads.end(), 0.0);
  if (sum <= 0) return 0;
  return *std::max_element(loads.begin(), loads.end()) * static_cast<double>(loads.size()) / sum;
}

}  // namespace supernode::moe
