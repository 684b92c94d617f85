#include "runtime/serving/load/trace.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include "runtime/core/error.hpp"
#include "runtime/core/files.hpp"
#include "runtime/serving/load/timestamp.hpp"
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
const std::string azure_2024 =
    "TIMESTAMP,ContextTokens,GeneratedTokens\n"
    "2024-03-04 05:06:07.080910+00:00,120,30\n"
    "2024-03-04 05:06:07.500000+00:00,200,12\n"
    "2024-03-04 05:06:09+00:00,40,9\n";
const std::string burstgpt =
    "\xef\xbb\xbf\n"  // a byte order mark and a blank first line
    "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    "3,model-a,120,30,150,Conversation log\n"
    "9,model-b,80,0,80,API log\n"
    "20.0,model-b,50,2,52,API log\n";
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
  CHECK(parse_trace(mooncake, "m.jsonl", {.max_requests = 1}).requests.size() == 1);
}

TEST_CASE("times of both Azure traces are read, with a zone and without a fraction") {
  const auto seconds = [](const std::string& text) { return parse_timestamp(text).value(); };
  CHECK(seconds("1970-01-02 00:00:01") == 86401);
  CHECK(seconds("2000-03-01 00:00:00Z") == 951868800);
  CHECK(seconds("2024-02-29T12:00:00.25+00:00") == 1709208000.25);
  CHECK(seconds("2024-02-29 12:00:00+02:30") == 1709208000 - 9000);
  CHECK(seconds("2024-02-29 12:00:00-00:30") == 1709208000 + 1800);
  for (const char* bad :
       {"", "2024", "2024-02-30 12:00:00", "2024-13-01 12:00:00", "2024-02-29 24:00:00", "2024-02-29 12:00:00.",
        "2024-02-29 12:00:00+1", "2024-02-29 12:00:00 UTC", "+024-02-29 12:00:00"})
    CHECK_FALSE(parse_timestamp(bad));
  const Trace trace = parse_trace(azure_2024, "a.csv");
  REQUIRE(trace.requests.size() == 3);
  CHECK(trace.requests[1].arrival_s == Approx(0.41909).margin(1e-6));
  CHECK(trace.requests[2].arrival_s == Approx(1.91909).margin(1e-6));
  CHECK(trace.requests[2].output_tokens == 9);
}

TEST_CASE("BurstGPT traces are read; their times are seconds") {
  const Trace trace = parse_trace(burstgpt, "b.csv");
  CHECK(trace.format == "burstgpt");
  REQUIRE(trace.requests.size() == 2);
  CHECK(trace.requests[1].arrival_s == 17);
  CHECK(trace.requests[1].input_tokens == 50);
  CHECK(trace.without_output == 1);
}

TEST_CASE("BurstGPT traces that name sessions are read, and failed requests are left out") {
  // A failed request has neither tokens to compute nor to give.
  const std::string later =
      "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
      "19440110.0,1722ac82-0a46-4bf0-aa08-89794e7a2b3f,43,GPT-4,906,446,1352,Conversation log\n"
      "19440151.0,d5983bf9-4b48-497b-892b-a58995247443,0,ChatGPT,0,0,0,Conversation log\n"
      "19440161.0,d5983bf9-4b48-497b-892b-a58995247443,2,ChatGPT,36,29,65,Conversation log\n";
  for (const ZeroOutput zero : {ZeroOutput::skip, ZeroOutput::one}) {
    const Trace trace = parse_trace(later, "b3.csv", {.zero_output = zero});
    CHECK(trace.format == "burstgpt");
    REQUIRE(trace.requests.size() == 2);
    CHECK(trace.without_output == 1);
    CHECK(trace.requests[0].input_tokens == 906);
    CHECK(trace.requests[0].output_tokens == 446);
    CHECK(trace.requests[1].arrival_s == 51);
  }
  const std::string without_prompt =
      "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n3,ChatGPT,0,30,30,API log\n";
  CHECK_THROWS_WITH(parse_trace(without_prompt, "b.csv"), Contains("b.csv:2") && Contains("Request tokens of 0"));
}

TEST_CASE("rows without output are left out and counted, or get one token") {
  const std::string zero_in_azure =
      "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.1,110,27\n2023-11-16 18:15:47.2,20,0\n"
      "2023-11-16 18:15:48.2,20,5\n";
  const std::string zero_in_mooncake = R"({"timestamp": 0, "input_length": 5, "output_length": 2})"
                                       "\n"
                                       R"({"timestamp": 1, "input_length": 6, "output_length": 0})";
  CHECK(parse_trace(zero_in_azure, "z").requests.size() == 2);
  CHECK(parse_trace(zero_in_azure, "z").without_output == 1);
  CHECK(parse_trace(zero_in_mooncake, "z").requests.size() == 1);
  const Trace raised = parse_trace(zero_in_mooncake, "z", {.zero_output = ZeroOutput::one});
  REQUIRE(raised.requests.size() == 2);
  CHECK(raised.requests[1].output_tokens == 1);
  CHECK(raised.without_output == 1);
  // The count of wanted requests is that of requests that are served.
  CHECK(parse_trace(zero_in_azure, "z", {.max_requests = 2}).requests.back().output_tokens == 5);
  CHECK_THROWS_WITH(parse_zero_output("no"), Contains("known: skip, one"));
}

TEST_CASE("blocks of another size and times of another unit are read when they are named") {
  const std::string small_blocks =
      R"({"timestamp": 0.25, "input_length": 40, "output_length": 4, "hash_ids": [100, 101, 102]})"
      "\n"
      R"({"timestamp": 2, "input_length": 33, "output_length": 4, "hash_ids": [100, 200, 201]})";
  CHECK_THROWS_WITH(parse_trace(small_blocks, "b", {.time_unit_s = 1}), Contains("blocks of 16 would fit"));
  const Trace trace = parse_trace(small_blocks, "b", {.block_tokens = 16, .time_unit_s = parse_time_unit("s")});
  CHECK(trace.block_tokens == 16);
  CHECK(trace.requests[1].arrival_s == 1.75);
  // Sixteen tokens are shared, and no more.
  const auto requests = make_workload(trace, {}, 1000, 1 << 20);
  const auto [a, b] = std::mismatch(requests[0].prompt.begin(), requests[0].prompt.end(), requests[1].prompt.begin());
  CHECK(a - requests[0].prompt.begin() == 16);
  CHECK_THROWS_WITH(parse_time_unit("h"), Contains("known: s, ms, us"));
}

TEST_CASE("an infinite rate brings all requests at once") {
  const Trace trace = parse_trace(mooncake, "m");
  WorkloadOptions options;
  options.request_rate = std::numeric_limits<double>::infinity();
  for (const Request& request : make_workload(trace, options, 1000, 1 << 20)) CHECK(request.arrival_s == 0);
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
      {R"({"timestamp": 0, "input_length": 513, "output_length": 1, "hash_ids": [1]})",
       "t:1: 1 hash_ids for 513 input tokens, but blocks of 512 tokens take 2; blocks of 1024 would fit "
       "(--trace-block-tokens 1024)"},
      {R"({"timestamp": 0, "input_length": 5, "output_length": 1, "hash_ids": []})", "0 hash_ids for 5 input tokens"},
      {R"({"timestamp": 0, "input_length": 5, "output_length": 1, "hash_ids": [1,2,3,4,5,6]})", "6 hash_ids for 5"},
      {mooncake + R"({"timestamp": 1e17, "input_length": 5, "output_length": 1})", "more than three years"},
      {mooncake + R"({"timestamp": -1e17, "input_length": 5, "output_length": 1})", "more than three years"},
      {R"({"timestamp": 0.5, "input_length": 5, "output_length": 1})", "(--trace-time-unit s for seconds)"},
      {R"({"timestamp": 0, "input_length": 5, "output_length": -1})", "output_length of -1 is out of range"},
      {R"({"timestamp": 0, "input_length": 18446744073709551615, "output_length": 1})", "out of range"},
      {R"({"timestamp": 0, "input_length": 5, "output_length": 1, "hash_ids": [true]})", "not an integer"},
      {mooncake + R"({"timestamp": 0, "input_length": 5, "output_length": 1})", "t:3: arrives before"},
      {"TIMESTAMP,ContextTokens,GeneratedTokens\nyesterday,1,2\n", "t:2: 'yesterday' is not a time"},
      {"TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.68,1\n", "t:2: expected 3 fields"},
      {"TIMESTAMP,ContextTokens,GeneratedTokens\n2023-02-29 18:15:46.68,1,1\n", "is not a time"},
      {"TIMESTAMP,ContextTokens,GeneratedTokens\n2023-02-28 18:15:46.68,0,1\n", "ContextTokens of 0 is out of range"},
      {"TIMESTAMP,ContextTokens,GeneratedTokens\n2023-02-28 18:15:46.68,3,0\n", "t: the trace holds no request"},
      {"Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\nx,m,1,1,2,API\n",
       "Timestamp 'x' is no number of seconds"},
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
