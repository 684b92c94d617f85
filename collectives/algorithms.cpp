#include "collectives/algorithms.hpp"

#include <algorithm>

#include "collectives/algorithms/algorithm.hpp"
#include "collectives/algorithms/find_hosts.hpp"
#include "collectives/algorithms/window_support.hpp"
#include "collectives/rule_file.hpp"
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

/// Works everywhere.
constexpr std::string_view last_resort = "alltoallv";

const SelectionRules& rules_of(const ExchangeConfig& config) { return config.rules ? *config.rules : *default_rules(); }

/// Traits of an exchange, except the number of hosts, which the caller fills in.
ExchangeTraits traits_of(const ExchangeConfig& config, int ranks) {
  const int tokens = config.typical_tokens > 0 ? config.typical_tokens : config.max_tokens;
  const auto row_bytes = static_cast<double>(element_bytes(config.dispatch_payload)) * config.hidden;
  return {.ranks = ranks, .bytes = tokens * row_bytes, .skew = config.typical_skew};
}

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

bool works(const AlgorithmEntry& entry, int hosts, const WindowSupport& windows) {
  if (entry.needs == Windows::none) return true;
  return windows.shared && (entry.needs == Windows::shared || hosts == 1 || windows.remote);
}

std::vector<const AlgorithmEntry*> working_algorithms(const Communicator& comm, int fake_hosts) {
  const HostMap hosts = find_hosts(comm, fake_hosts);
  const WindowSupport windows = probe_windows(comm, hosts);
  std::vector<const AlgorithmEntry*> result;
  for (const AlgorithmEntry& entry : table)
    if (works(entry, hosts.hosts(), windows)) result.push_back(&entry);
  return result;
}

Selection select_algorithm(const ExchangeConfig& config, const ExchangeShape& shape) {
  if (config.algorithm != "auto") return {find_algorithm(config.algorithm), {}};
  const SelectionRules& rules = rules_of(config);
  ExchangeTraits traits = traits_of(config, shape.ranks);
  traits.hosts = shape.hosts;
  for (const SelectionRule& rule : rules.rules)
    if (const AlgorithmEntry& entry = find_algorithm(rule.algorithm);
        rule.fits(traits) && works(entry, shape.hosts, shape.windows))
      return {entry, rules.source + ":" + std::to_string(rule.line)};
  return {find_algorithm(last_resort), rules.source + ": no rule"};
}

std::vector<const AlgorithmEntry*> automatic_algorithms(const ExchangeConfig& config, int ranks) {
  std::vector<const AlgorithmEntry*> result{&find_algorithm(last_resort)};
  ExchangeTraits traits = traits_of(config, ranks);
  for (const SelectionRule& rule : rules_of(config).rules) {
    traits.hosts = static_cast<int>(std::clamp<double>(ranks, rule.hosts.min, rule.hosts.max));
    if (rule.hosts.min <= ranks && rule.fits(traits)) result.push_back(&find_algorithm(rule.algorithm));
  }
  return result;
}

}  // namespace supernode::collectives
