#include "collectives/algorithms/table.hpp"

#include <string>

#include <fmt/format.h>

#include "collectives/algorithms/algorithm.hpp"
#include "runtime/core/error.hpp"

namespace supernode::collectives {
namespace {

constexpr AlgorithmEntry table[] = {
    {"alltoallv", "pack, MPI all-to-all of counts, MPI all-to-all of messages, unpack: the baseline", Windows::none,
     &plan_alltoallv, &make_alltoallv},
    {"pairwise", "one nonblocking message to each peer, the row count in front of the rows", Windows::none,
     &plan_pairwise, &make_pairwise},
    {"bruck", "log2(ranks) messages with half of everything, passed on", Windows::none, &plan_bruck, &make_bruck},
    {"direct", "stores into the peers' slots in shared memory (MPI_Put between hosts), then a flag with the count",
     Windows::shared_and_remote, &plan_direct, &make_direct},
    {"hierarchical", "each row once to each host, where one rank takes it in and all read it in shared memory",
     Windows::shared, &plan_hierarchical, &make_hierarchical},
    {"pull", "rows written once into memory of one's own, from where the others read (MPI_Get between hosts)",
     Windows::shared_and_remote, &plan_pull, &make_pull},
};

}  // namespace

std::span<const AlgorithmEntry> algorithm_table() { return table; }

const AlgorithmEntry& find_algorithm(std::string_view name) {
  std::string known;
  for (const AlgorithmEntry& entry : table) {
    if (entry.name == name) return entry;
    known += fmt::format(", {}", entry.name);
  }
  throw UsageError(fmt::format("exchange algorithm '{}' unknown; known: auto{}", name, known));
}

void require_windows(const AlgorithmEntry& entry, int hosts, const WindowSupport& support) {
  if (sufficient(entry.needs, hosts, support)) return;
  std::string others;
  for (const AlgorithmEntry& other : table)
    if (sufficient(other.needs, hosts, support)) others += fmt::format(", {}", other.name);
  throw EnvironmentError(fmt::format(
      "exchange algorithm '{}' {}; choose another one-sided component, or an algorithm that works here: auto{}",
      entry.name, what_is_missing(entry.needs, hosts, support), others));
}

}  // namespace supernode::collectives
