#include "collectives/selection/rules.hpp"

#include <algorithm>
#include <cmath>
#include <optional>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "runtime/core/error.hpp"
#include "runtime/core/sizes.hpp"
#include "runtime/core/text.hpp"

namespace supernode::collectives {
namespace {

enum class Unit { count, bytes, factor };

double number(std::string_view text, Unit unit) {
  if (unit == Unit::bytes) return static_cast<double>(parse_size(text));
  const std::optional<double> value = parse_number<double>(text);
  if (!value || *value < 0 || (unit == Unit::count && *value != std::floor(*value)))
    throw UsageError(fmt::format("'{}' is not a {}", text, unit == Unit::count ? "whole number" : "number"));
  return *value;
}

RuleRange parse_range(std::string_view text, Unit unit) {
  if (text == "*") return {};
  const std::size_t colon = text.find(':');
  if (colon == std::string_view::npos) return {number(text, unit), number(text, unit)};
  RuleRange range;
  if (colon > 0) range.min = number(text.substr(0, colon), unit);
  if (colon + 1 < text.size()) range.max = number(text.substr(colon + 1), unit);
  if (text.size() == 1 || range.max < range.min) throw UsageError(fmt::format("'{}' is not a range MIN:MAX", text));
  return range;
}

std::string format_range(const RuleRange& range, Unit unit) {
  const auto show = [&](double value) {
    const auto whole = static_cast<unsigned long long>(value);
    if (unit == Unit::factor) return fmt::format("{}", value);
    if (unit == Unit::bytes && whole > 0 && whole % (1u << 20) == 0) return fmt::format("{}M", whole >> 20);
    if (unit == Unit::bytes && whole > 0 && whole % (1u << 10) == 0) return fmt::format("{}K", whole >> 10);
    return fmt::format("{}", whole);
  };
  const bool from = range.min > 0, to = std::isfinite(range.max);
  if (!from && !to) return "*";
  if (range.min == range.max) return show(range.min);
  return (from ? show(range.min) : "") + ":" + (to ? show(range.max) : "");
}

}  // namespace

SelectionRules parse_rules(std::string_view text, const std::string& source, std::span<const std::string_view> known) {
  SelectionRules result{source, {}};
  for (LineReader lines(text, source); lines.next();) {
    const auto words = split_words(trim(lines.line().substr(0, lines.line().find('#'))));
    if (words.empty()) continue;
    try {
      if (words.size() != 5)
        throw UsageError(fmt::format("a rule is 'hosts ranks bytes skew algorithm', 5 words and not {}", words.size()));
      if (std::find(known.begin(), known.end(), words[4]) == known.end())
        throw UsageError(fmt::format("exchange algorithm '{}' unknown; known: {}", words[4], fmt::join(known, ", ")));
      result.rules.push_back({parse_range(words[0], Unit::count), parse_range(words[1], Unit::count),
                              parse_range(words[2], Unit::bytes), parse_range(words[3], Unit::factor),
                              std::string(words[4]), lines.number()});
    } catch (const UsageError& error) {
      throw lines.error(error.what());
    }
  }
  return result;
}

std::string format_rules(std::span<const SelectionRule> rules, std::string_view comment) {
  std::string text;
  for (LineReader lines(comment, {}); lines.next();) text += fmt::format("# {}\n", lines.line());
  text += fmt::format("{:<8} {:<8} {:<16} {:<8} {}\n", "# hosts", "ranks", "bytes", "skew", "algorithm");
  for (const SelectionRule& rule : rules)
    text += fmt::format("  {:<6} {:<8} {:<16} {:<8} {}\n", format_range(rule.hosts, Unit::count),
                        format_range(rule.ranks, Unit::count), format_range(rule.bytes, Unit::bytes),
                        format_range(rule.skew, Unit::factor), rule.algorithm);
  return text;
}

}  // namespace supernode::collectives
