#include "collectives/selection/rules.hpp"

#include "runtime/core/error.hpp"
#include "tests/support/catch.hpp"

using namespace supernode;
using namespace supernode::collectives;

namespace {

const std::vector<std::string_view> known{"direct", "pairwise"};

SelectionRules parse(std::string_view text) { return parse_rules(text, "site.rules", known); }

}  // namespace

TEST_CASE("a rule is five fields, each a value, a range or anything") {
  const SelectionRules rules = parse("# comment\n\n1 2:8 4K:1M 1.5: direct # why\n* :16 * * pairwise\r\n");
  CHECK(rules.source == "site.rules");
  REQUIRE(rules.rules.size() == 2);
  const SelectionRule& first = rules.rules[0];
  CHECK(first.line == 3);
  CHECK(first.algorithm == "direct");
  CHECK(first.hosts == RuleRange{1, 1});
  CHECK(first.ranks == RuleRange{2, 8});
  CHECK(first.bytes == RuleRange{4096, 1 << 20});
  CHECK(first.skew == RuleRange{1.5});
  CHECK(rules.rules[1].hosts == RuleRange{});
  CHECK(rules.rules[1].ranks == RuleRange{0, 16});
  CHECK(rules.rules[1].line == 4);
  CHECK(parse("").rules.empty());
}

TEST_CASE("both ends of a range belong to it") {
  const SelectionRule rule = parse("1 2:8 4K:64K :2 direct").rules[0];
  CHECK(rule.fits({.hosts = 1, .ranks = 2, .bytes = 4096, .skew = 2}));
  CHECK(rule.fits({.hosts = 1, .ranks = 8, .bytes = 65536, .skew = 1}));
  CHECK_FALSE(rule.fits({.hosts = 2, .ranks = 8, .bytes = 65536, .skew = 1}));
  CHECK_FALSE(rule.fits({.hosts = 1, .ranks = 9, .bytes = 65536, .skew = 1}));
  CHECK_FALSE(rule.fits({.hosts = 1, .ranks = 8, .bytes = 65537, .skew = 1}));
  CHECK_FALSE(rule.fits({.hosts = 1, .ranks = 8, .bytes = 65536, .skew = 2.1}));
}

TEST_CASE("rules are written as they are read") {
  const std::string text =
      format_rules(parse("1 2:8 4K:3M 1.25: direct\n* :16 1000 * pairwise\n2: 4 1M: :2 direct\n").rules, "two\nlines");
  CHECK_THAT(text, Catch::StartsWith("# two\n# lines\n# hosts"));
  const SelectionRules again = parse(text);
  REQUIRE(again.rules.size() == 3);
  CHECK(format_rules(again.rules, "two\nlines") == text);
  CHECK(again.rules[0].bytes == RuleRange{4096, 3 << 20});
  CHECK(again.rules[1].bytes == RuleRange{1000, 1000});
  CHECK(again.rules[2].skew == RuleRange{0, 2});
}

TEST_CASE("a bad rule is named by file and line") {
  const auto error = [](std::string_view text) {
    try {
      parse(text);
    } catch (const UsageError& e) {
      return std::string(e.what());
    }
    return std::string("none");
  };
  CHECK(error("1 * * direct") == "site.rules:1: a rule is 'hosts ranks bytes skew algorithm', 5 words and not 4");
  CHECK(error("\n1 * * * fastest") == "site.rules:2: exchange algorithm 'fastest' unknown; known: direct, pairwise");
  CHECK(error("1.5 * * * direct") == "site.rules:1: '1.5' is not a whole number");
  CHECK(error("1 -2 * * direct") == "site.rules:1: '-2' is not a whole number");
  CHECK(error("1 * * nan direct") == "site.rules:1: 'nan' is not a number");
  CHECK(error("1 8:2 * * direct") == "site.rules:1: '8:2' is not a range MIN:MAX");
  CHECK(error("1 : * * direct") == "site.rules:1: ':' is not a range MIN:MAX");
  CHECK_THAT(error("1 * 4X * direct"), Catch::StartsWith("site.rules:1: ") && Catch::Contains("4X"));
}
