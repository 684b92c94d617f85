#include "collectives/algorithms/choice.hpp"

#include <algorithm>

#include "collectives/rule_file.hpp"

namespace supernode::collectives {
namespace {

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

Selection select_algorithm(const ExchangeConfig& config, const ExchangeShape& shape) {
  if (config.algorithm != "auto") return {find_algorithm(config.algorithm), {}};
  const SelectionRules& rules = rules_of(config);
  ExchangeTraits traits = traits_of(config, shape.ranks);
  traits.hosts = shape.hosts;
  for (const SelectionRule& rule : rules.rules)
    if (const AlgorithmEntry& entry = find_algorithm(rule.algorithm);
        rule.fits(traits) && sufficient(entry.needs, shape.hosts, shape.windows))
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
