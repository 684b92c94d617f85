#include "collectives/selection/tuning.hpp"

#include <algorithm>
#include <cmath>
#include <functional>
#include <iterator>

#include "runtime/core/error.hpp"

namespace supernode::collectives {

std::vector<std::string> winners(const std::vector<MeasuredSize>& sizes, double tie) {
  std::vector<std::string> chosen;
  for (const MeasuredSize& size : sizes) {
    expect(!size.times.empty(), "a size without measured times");
    const auto best = std::min_element(size.times.begin(), size.times.end(),
                                       [](const auto& a, const auto& b) { return a.second < b.second; });
    const auto kept = std::find_if(size.times.begin(), size.times.end(), [&](const auto& time) {
      return !chosen.empty() && time.first == chosen.back() && time.second <= best->second * (1 + tie);
    });
    chosen.push_back(kept == size.times.end() ? best->first : kept->first);
  }
  return chosen;
}

std::vector<SelectionRule> tuned_rules(const std::vector<MeasuredSize>& sizes, const std::vector<std::string>& chosen,
                                       int hosts, int ranks, double skew) {
  SelectionRule rule;
  rule.hosts = {static_cast<double>(hosts), static_cast<double>(hosts)};
  rule.ranks = {static_cast<double>(ranks), static_cast<double>(ranks)};
  if (skew >= 1.1) rule.skew.min = std::round((1 + skew) * 50) / 100;
  std::vector<SelectionRule> rules;
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    if (i > 0 && chosen[i] == chosen[i - 1]) continue;
    rule.bytes.min = 0;
    if (i > 0) {
      rules.back().bytes.max = std::floor(std::sqrt(sizes[i - 1].bytes * sizes[i].bytes));
      rule.bytes.min = rules.back().bytes.max + 1;
    }
    rule.algorithm = chosen[i];
    rules.push_back(rule);
  }
  return rules;
}

std::vector<SelectionRule> merged_rules(const std::vector<SelectionRule>& tuned,
                                        const std::vector<SelectionRule>& old) {
  expect(!tuned.empty(), "nothing was tuned");
  const auto same_shape = [&](const SelectionRule& rule) {
    return rule.hosts == tuned[0].hosts && rule.ranks == tuned[0].ranks;
  };
  std::vector<SelectionRule> rules = tuned;
  for (const SelectionRule& rule : old)
    if (same_shape(rule) && rule.skew != tuned[0].skew) rules.push_back(rule);
  std::stable_partition(rules.begin(), rules.end(), [](const SelectionRule& rule) { return rule.skew.min > 0; });
  std::copy_if(old.begin(), old.end(), std::back_inserter(rules), std::not_fn(same_shape));
  return rules;
}

}  // namespace supernode::collectives
