#include "runtime/serving/load/trace.hpp"

#include <algorithm>
#include <cmath>
#include <set>

#include "runtime/core/error.hpp"
#include "runtime/core/files.hpp"
#include "runtime/serving/load/workload.hpp"
#include "tests/support/catch.hpp"

using namespace supernode;
using namespace supernode::serving;
using Catch::Matchers::Contains;

namespace {
const std::string mooncake = R"({"timestamp": 1000, "input_length": 1500, "output_length": 10, "hash_ids": [0, 1, 2]})"
                             "\n"
                             R"({"timestamp": 1500, "input_length": 1100, "output_length": 20, "hash_ids": [0, 1, 7]})"
                             "\n";
const std::string azure =
    "TIMESTAMP,ContextTokens,GeneratedTokens\r\n"
    "2023-12-31 23:59:59.5000000,374,44\r\n"
    "2024-01-01 00:00:00.7500000,396,109";  // the last line is not terminated
}  // namespace

TEST_CASE("both formats are recognised and start at time 0") {
  const Trace m = parse_trace(mooncake, "m.jsonl");
  REQUIRE(m.requests.size() == 2);
  CHECK(m.format == "mooncake");
  CHECK(m.block_tokens == 512);
  CHECK(m.requests[0].arrival_s == 0);
  CHECK(m.requests[1].arrival_s == Approx(0.5));
  CHECK(m.requests[1].hash_ids == std::vector<std::int64_t>{0, 1, 7});

  const Trace a = parse_trace(azure, "a.csv");
  REQUIRE(a.requests.size() == 2);
  CHECK(a.format == "azure");
  CHECK(a.requests[1].arrival_s == Approx(1.25).margin(1e-6));
  CHECK(a.requests[1].output_tokens == 109);
  CHECK(a.requests[0].hash_ids.empty());
  CHECK(parse_trace(mooncake, "m.jsonl", 1).requests.size() == 1);
}

TEST_CASE("a byte order mark and carriage returns do no harm") {
  const Trace trace =
      parse_trace("\xef\xbb\xbf{\"timestamp\": 0, \"input_length\": 5, \"output_length\": 2}\r\n\r\n", "x");
  REQUIRE(trace.requests.size() == 1);
  CHECK(trace.requests[0].input_tokens == 5);
}

TEST_CASE("a bad trace is refused with its line") {
  struct Row {
    std::string text, expected;
  };
  const auto row = GENERATE_COPY(values<Row>({
      {"", "t: the trace is empty"},
      {"hello\n", "t:1: neither"},
      {std::string("\0\1\2\3", 4), "t:1: neither"},
      {"TIMESTAMP,ContextTokens,GeneratedTokens\n", "holds no request"},
      {mooncake + R"({"timestamp": 2000, "input_le)", "t:3: not a JSON object (is the file truncated?)"},
      {R"({"input_length": 1, "output_length": 1})", "t:1: key 'timestamp'"},
      {R"({"timestamp": 0, "output_length": 1})", "t:1: key 'input_length' is missing"},
      {R"({"timestamp": 0, "input_length": "x", "output_length": 1})", "'input_length' is not an integer"},
      {R"({"timestamp": 0, "input_length": 0, "output_length": 1})", "input_length of 0 is out of range"},
      {R"({"timestamp": 0, "input_length": 99999999999, "output_length": 1})", "out of range"},
      {R"({"timestamp": 0, "input_length": 513, "output_length": 1, "hash_ids": [1]})", "do not cover"},
      {R"({"timestamp": 0, "input_length": 5, "output_length": 1, "hash_ids": [true]})", "not an integer"},
      {mooncake + R"({"timestamp": 0, "input_length": 5, "output_length": 1})", "t:3: arrives before"},
      {"TIMESTAMP,ContextTokens,GeneratedTokens\nyesterday,1,2\n", "t:2: 'yesterday' is not a time"},
      {"TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.68,1\n", "t:2: expected three fields"},
      {"TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.68,1,x\n", "t:2: GeneratedTokens 'x'"},
  }));
  CHECK_THROWS_WITH(parse_trace(row.text, "t"), Contains(row.expected));
  CHECK_THROWS_AS(parse_trace(row.text, "t"), UsageError);
}

TEST_CASE("equal hash ids are equal tokens at every length scale") {
  const double scale = GENERATE(1.0, 0.5, 0.05, 0.013);
  const int vocabulary = GENERATE(256, 129280);
  const Trace trace = parse_trace(mooncake, "m");
  const auto requests = make_workload(trace, {1, scale, 0, 5}, vocabulary, 1 << 20);
  const auto shared = static_cast<std::ptrdiff_t>(std::llround(1024 * scale));
  CHECK(requests[0].prompt.size() == static_cast<std::size_t>(std::llround(1500 * scale)));
  CHECK(std::equal(requests[0].prompt.begin(), requests[0].prompt.begin() + shared, requests[1].prompt.begin()));
  CHECK_FALSE(std::equal(requests[0].prompt.begin(),
                         requests[0].prompt.begin() + std::min<std::ptrdiff_t>(shared + 3, 12),
                         requests[1].prompt.rbegin()));
  for (const Request& request : requests)
    for (const std::int32_t token : request.prompt) CHECK((token >= 0 && token < vocabulary));
  // Another seed is another text.
  CHECK(make_workload(trace, {1, scale, 0, 6}, vocabulary, 1 << 20)[0].prompt != requests[0].prompt);
}

TEST_CASE("requests without hash ids share nothing, and times scale") {
  const Trace trace = parse_trace(azure, "a");
  const auto requests = make_workload(trace, {2, 1, 0, 0}, 1000, 1 << 20);
  CHECK(requests[1].arrival_s == Approx(2.5).margin(1e-6));
  std::vector<std::int32_t> head(requests[0].prompt.begin(), requests[0].prompt.begin() + 16);
  CHECK_FALSE(std::equal(head.begin(), head.end(), requests[1].prompt.begin()));
  CHECK(make_workload(trace, {0, 1, 0, 0}, 1000, 1 << 20)[1].arrival_s == 0);
  const auto poisson = make_workload(trace, {1, 1, 10, 0}, 1000, 1 << 20);
  CHECK(poisson[0].arrival_s == 0);
  CHECK(poisson[1].arrival_s > 0);
}

TEST_CASE("a request beyond the model is refused by number") {
  CHECK_THROWS_WITH(make_workload(parse_trace(azure, "a"), {}, 1000, 450),
                    Contains("request 1: 396 prompt + 109 output"));
}

TEST_CASE("the real traces parse") {
  if (const std::string path = test::shared_path("data/traces/mooncake_conversation.jsonl"); !path.empty()) {
    const Trace trace = parse_trace(read_file(path), path);
    CHECK(trace.requests.size() == 12031);
    // The ideal hit rate that the trace's own documentation states.
    std::set<std::int64_t> seen;
    std::size_t hits = 0, blocks = 0;
    for (const TraceRequest& request : trace.requests)
      for (const std::int64_t id : request.hash_ids) {
        ++blocks;
        if (!seen.insert(id).second) ++hits;
      }
    CHECK(static_cast<double>(hits) / static_cast<double>(blocks) == Approx(0.366).margin(0.001));
  }
  if (const std::string path = test::shared_path("data/traces/azure_2023_conv.csv"); !path.empty())
    CHECK(parse_trace(read_file(path), path).requests.size() == 19366);
}
