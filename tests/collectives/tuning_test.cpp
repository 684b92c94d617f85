#include "collectives/selection/tuning.hpp"

#include "tests/support/catch.hpp"

using namespace supernode::collectives;

namespace {

/// "a" is best for small sizes, "b" for large ones; at 4000 they are equal within 2 %.
const std::vector<MeasuredSize> sizes{{1000, {{"a", 1.0}, {"b", 2.0}}},
                                      {2000, {{"a", 2.0}, {"b", 2.5}}},
                                      {4000, {{"a", 3.05}, {"b", 3.0}}},
                                      {16000, {{"a", 12.0}, {"b", 8.0}}}};

std::string text_of(const std::vector<SelectionRule>& rules) {
  const std::string text = format_rules(rules, "");
  return text.substr(text.find('\n') + 1);
}

std::vector<SelectionRule> tuned(int hosts, int ranks, double skew = 1) {
  return tuned_rules(sizes, winners(sizes, 0.02), hosts, ranks, skew);
}

}  // namespace

TEST_CASE("the fastest wins, and ties change nothing") {
  CHECK(winners(sizes, 0.02) == std::vector<std::string>{"a", "a", "a", "b"});
  CHECK(winners(sizes, 0) == std::vector<std::string>{"a", "a", "b", "b"});
}

TEST_CASE("rules meet between the sizes and leave no gap") {
  const std::vector<SelectionRule> rules = tuned(1, 4);
  REQUIRE(rules.size() == 2);
  CHECK(rules[0].algorithm == "a");
  CHECK(rules[0].bytes == RuleRange{0, 8000});
  CHECK(rules[1].algorithm == "b");
  CHECK(rules[1].bytes == RuleRange{8001});
  CHECK(rules[1].hosts == RuleRange{1, 1});
  CHECK(rules[1].ranks == RuleRange{4, 4});
  CHECK(rules[1].skew == RuleRange{});
  for (std::size_t i = 0; i < sizes.size(); ++i)
    CHECK((rules[0].fits({.ranks = 4, .bytes = sizes[i].bytes}) ? "a" : "b") == winners(sizes, 0.02)[i]);
  CHECK(tuned(1, 4, 1.5)[0].skew == RuleRange{1.25});
}

TEST_CASE("tuning one shape leaves the others") {
  const std::vector<std::string_view> known{"a", "b"};
  const SelectionRules old = parse_rules("1 4 * * b\n1 2 * * a\n* * * * a\n", "old", known);
  const std::vector<SelectionRule> even = merged_rules(tuned(1, 4), old.rules);
  CHECK(text_of(even) == text_of(parse_rules("1 4 :8000 * a\n1 4 8001: * b\n1 2 * * a\n* * * * a\n", "", known).rules));
  const std::vector<SelectionRule> skewed = merged_rules(tuned(1, 4, 2), even);
  const std::string expected =
      "1 4 :8000 1.5: a\n1 4 8001: 1.5: b\n1 4 :8000 * a\n1 4 8001: * b\n1 2 * * a\n* * * * a\n";
  CHECK(text_of(skewed) == text_of(parse_rules(expected, "", known).rules));
  CHECK(text_of(merged_rules(tuned(1, 4), skewed)) == text_of(skewed));
  CHECK(text_of(merged_rules(tuned(1, 4, 2), skewed)) == text_of(skewed));
}
