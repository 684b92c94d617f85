#include "collectives/selection/rules.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>

#include <fmt/format.h>

#include "runtime/core/error.hpp"
#include "runtime/core/sizes.hpp"

namespace supernode::collectives {
namespace {

constexpr std::string_view blanks = " \t\r";

std::vector<std::string_view> words_of(std::string_view line) {
  std::vector<std::string_view> words;
  line = line.substr(0, line.find('#'));
  for (std::size_t at = line.find_first_not_of(blanks); at != std::string_view::npos;) {
    const std::size_t end = std::min(line.find_first_of(blanks, at), line.size());
    words.push_back(line.substr(at, end - at));
    at = line.find_first_not_of(blanks, end);
  }
  return words;
}

enum class Unit { count, bytes, factor };

double number(std::string_view text, Unit unit) {
  if (unit == Unit::bytes) return static_cast<double>(parse_size(text));
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || !std::isfinite(value) || value < 0 ||
      (unit == Unit::count && value != std::floor(value)))
    throw UsageError(fmt::format("'{}' is not a {}", text, unit == Unit::count ? "whole number" : "number"));
  return value;
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
  int line = 0;
  while (!text.empty()) {
    ++line;
    const std::size_t end = std::min(text.find('\n'), text.size());
    const auto words = words_of(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
    if (words.empty()) continue;
    try {
      if (words.size() != 5)
        throw UsageError(fmt::format("a rule is 'hosts ranks bytes skew algorithm', 5 words and not {}", words.size()));
      if (std::find(known.begin(), known.end(), words[4]) == known.end())
        throw UsageError(fmt::format("exchange algorithm '{}' unknown; known: {}", words[4], fmt::join(known, ", ")));
      result.rules.push_back({parse_range(words[0], Unit::count), parse_range(words[1], Unit::count),
                              parse_range(words[2], Unit::bytes), parse_range(words[3], Unit::factor),
                              std::string(words[4]), line});
    } catch (const UsageError& error) {
      throw UsageError(fmt::format("{}:{}: {}", source, line, error.what()));
    }
  }
  return result;
}

std::string format_rules(std::span<const SelectionRule> rules, std::string_view comment) {
  std::string text;
  while (!comment.empty()) {
    const std::size_t end = std::min(comment.find('\n'), comment.size());
    text += fmt::format("# {}\n", comment.substr(0, end));
    comment.remove_prefix(std::min(end + 1, comment.size()));
  }
  text += fmt::format("{:<8} {:<8} {:<16} {:<8} {}\n", "# hosts", "ranks", "bytes", "skew", "algorithm");
  for (const SelectionRule& rule : rules)
    text += fmt::format("  {:<6} {:<8} {:<16} {:<8} {}\n", format_range(rule.hosts, Unit::count),
                        format_range(rule.ranks, Unit::count), format_range(rule.bytes, Unit::bytes),
                        format_range(rule.skew, Unit::factor), rule.algorithm);
  return text;
}

}  // namespace supernode::collectives
