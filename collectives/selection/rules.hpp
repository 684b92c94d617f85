#pragma once
// Which algorithm "auto" takes, kept as data. A rules file has one rule a line, and the first that fits decides:
//
//   # hosts  ranks  bytes   skew  algorithm
//     1      2:8    :64K    *     direct
//     *      *      *       2:    pairwise
//
// A field is a value, a range MIN:MAX with both ends in it, ':MAX', 'MIN:' or '*' for anything. Sizes accept K, M, G.
// Text after '#' is a comment. Pure: what decides is equal on all ranks, so they agree without a message.

#include <cstddef>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace supernode::collectives {

/// What the rules look at; equal on all ranks.
struct ExchangeTraits {
  int hosts = 1;  ///< that the ranks span
  int ranks = 1;
  double bytes = 0;  ///< a rank's tokens in a dispatch times the bytes of a row's elements
  double skew = 1;   ///< rows of the busiest rank over the mean, >= 1
};

/// Both ends included.
struct RuleRange {
  double min = 0, max = std::numeric_limits<double>::infinity();
  bool holds(double value) const { return min <= value && value <= max; }
  friend bool operator==(const RuleRange&, const RuleRange&) = default;
};

struct SelectionRule {
  RuleRange hosts, ranks, bytes, skew;
  std::string algorithm;
  int line = 0;  ///< in its file, from 1

  bool fits(const ExchangeTraits& t) const {
    return hosts.holds(t.hosts) && ranks.holds(t.ranks) && bytes.holds(t.bytes) && skew.holds(t.skew);
  }
};

/// The rules of one file, in its order.
struct SelectionRules {
  std::string source;  ///< the file, or "built-in rules"
  std::vector<SelectionRule> rules;
};

/// @param known names of algorithms. @throws UsageError "<source>:<line>: ..." for a line that is no rule, a field that
/// is no range, or an unknown algorithm.
SelectionRules parse_rules(std::string_view text, const std::string& source, std::span<const std::string_view> known);

/// The rules as a file; `comment` stands in front, each line behind '# '. parse_rules() gives them back.
std::string format_rules(std::span<const SelectionRule> rules, std::string_view comment);

/// The text of configs/exchange-rules/default.rules as it was when the program was built.
std::string_view built_in_rules();

}  // namespace supernode::collectives
