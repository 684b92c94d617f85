#include "collectives/algorithms.hpp"

#include "collectives/internal/algorithm.hpp"
#include "runtime/core/error.hpp"

namespace supernode::collectives {
namespace {

std::string no_obstacle(const ExchangeShape&) { return {}; }

constexpr AlgorithmEntry table[] = {
    {"alltoallv", "pack, MPI all-to-all of counts, MPI all-to-all of messages, unpack: the baseline", true,
     &no_obstacle, &alltoallv_buffer_bytes, &make_alltoallv},
    {"pairwise", "one nonblocking message to each peer, the row count in front of the rows", false, &no_obstacle,
     &pairwise_buffer_bytes, &make_pairwise},
    {"bruck", "log2(ranks) messages with half of everything, passed on", false, &no_obstacle, &bruck_buffer_bytes,
     &make_bruck},
    {"direct", "plain stores into the peers' slots in shared memory, then a flag with the count; one host", true,
     &direct_obstacle, &direct_buffer_bytes, &make_direct},
};

}  // namespace

std::span<const AlgorithmEntry> algorithms() { return table; }

const AlgorithmEntry& find_algorithm(std::string_view name) {
  std::string known;
  for (const AlgorithmEntry& entry : table) {
    if (entry.name == name) return entry;
    known += (known.empty() ? "" : ", ") + std::string(entry.name);
  }
  throw UsageError("exchange algorithm '" + std::string(name) + "' unknown; known: auto, " + known);
}

const AlgorithmEntry& select_algorithm(const ExchangeConfig& config, const ExchangeShape& shape) {
  if (config.algorithm != "auto") {
    const AlgorithmEntry& entry = find_algorithm(config.algorithm);
    if (const std::string obstacle = entry.obstacle(shape); !obstacle.empty())
      throw UsageError("exchange algorithm '" + config.algorithm + "': " + obstacle);
    return entry;
  }
  const AlgorithmEntry& direct = find_algorithm("direct");
  return direct.obstacle(shape).empty() ? direct : find_algorithm("alltoallv");
}

}  // namespace supernode::collectives
