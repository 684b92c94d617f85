#include "runtime/core/expert_counts.hpp"

#include "runtime/core/error.hpp"
#include "tests/support/catch.hpp"

using namespace supernode;

TEST_CASE("recorded expert counts are read as they stand, rows of zeros too") {
  CHECK(parse_expert_counts(R"({"logical_count": [[0, 0.0], [3, 4.5]], "more": 1})", "f") ==
        ExpertCounts{{0, 0}, {3, 4.5}});
  CHECK(expert_counts_in(Json{{"logical_count", {{7}}}}, "f") == ExpertCounts{{7}});
}

TEST_CASE("what is no list of counts is refused with source, layer and expert") {
  const struct {
    const char *text, *message;
  } cases[] = {
      {"", "f: not valid JSON"},
      {R"({"logical_count": [[1,)", "f: not valid JSON"},
      {"[]", "f: no 'logical_count', a list of layers"},
      {R"({"logical_count": 3})", "f: no 'logical_count', a list of layers"},
      {R"({"logical_count": []})", "f: 'logical_count' is empty"},
      {R"({"logical_count": [[]]})", "f: 'logical_count' is empty"},
      {R"({"logical_count": [[1], 2]})", "f: logical_count[1] is not a list"},
      {R"({"logical_count": [[1, 2], []]})", "f: logical_count[1] has 0 experts, but logical_count[0] has 2"},
      {R"({"logical_count": [[1, -2]]})", "f: logical_count[0][1] is not a count"},
      {R"({"logical_count": [[1, null]]})", "f: logical_count[0][1] is not a count"},
      {R"({"logical_count": [[1, 1e16]]})", "f: logical_count[0][1] is not a count"},
      {R"({"logical_count": [["1"]]})", "f: logical_count[0][0] is not a count"},
  };
  for (const auto& one : cases) {
    INFO(one.text);
    CHECK_THROWS_AS(parse_expert_counts(one.text, "f"), UsageError);
    CHECK_THROWS_WITH(parse_expert_counts(one.text, "f"), Catch::StartsWith(one.message));
  }
}
