// Loads that no trace has: lengths, shared prefixes, arrivals.
#include "runtime/serving/load/generated.hpp"

#include <algorithm>
#include <cmath>

#include "runtime/core/error.hpp"
#include "runtime/core/files.hpp"
#include "runtime/core/statistics.hpp"
#include "runtime/serving/load/arrival_gaps.hpp"
#include "runtime/serving/load/workload.hpp"
#include "tests/support/catch.hpp"

using namespace supernode;
using namespace supernode::serving;
using Catch::Matchers::Contains;

namespace {

Lengths prompts(const std::string& text) { return Lengths(text, LengthOf::prompt, "--prompt-lengths"); }
Lengths outputs(const std::string& text) { return Lengths(text, LengthOf::output, "--output-lengths"); }

Summary lengths_of(const Lengths& lengths) {
  Random random(7);
  std::vector<double> sample;
  for (int i = 0; i < 20000; ++i) sample.push_back(static_cast<double>(lengths.at(random.uniform())));
  return summarize(sample);
}

std::size_t common(const Request& a, const Request& b) {
  const auto [one, other] = std::mismatch(a.prompt.begin(), a.prompt.end(), b.prompt.begin(), b.prompt.end());
  return static_cast<std::size_t>(one - a.prompt.begin());
}

}  // namespace

TEST_CASE("gaps of a gamma process have the rate's mean and the burstiness' variance") {
  for (const double burstiness : {0.25, 1.0, 4.0}) {
    INFO(burstiness);
    ArrivalGaps gaps(5, burstiness, Random(3));
    std::vector<double> sample;
    for (int i = 0; i < 40000; ++i) sample.push_back(gaps.next());
    const Summary s = summarize(sample);
    CHECK(s.min >= 0);
    CHECK(s.mean == Approx(1 / 5.0).epsilon(0.02));
    CHECK(s.stddev == Approx(1 / (5 * std::sqrt(burstiness))).epsilon(0.03));
  }
  // Of one seed, the same draws: a Poisson process is the gamma process of shape 1.
  ArrivalGaps poisson(2, 1, Random(9)), nearly(2, 1 + 1e-9, Random(9));
  for (int i = 0; i < 100; ++i) CHECK(poisson.next() == Approx(nearly.next()).epsilon(1e-6));
  ArrivalGaps at_once(INFINITY, 0.5, Random(1));
  CHECK(at_once.next() == 0);
}

TEST_CASE("lengths follow their distribution") {
  CHECK(lengths_of(prompts("fixed:300")).min == 300);
  CHECK(lengths_of(prompts("fixed:300")).max == 300);
  const Summary uniform = lengths_of(prompts("uniform:10:19"));
  CHECK(uniform.min == 10);
  CHECK(uniform.max == 19);
  CHECK(uniform.mean == Approx(14.5).epsilon(0.01));
  const Summary lognormal = lengths_of(outputs("lognormal:200:0.5"));
  CHECK(lognormal.p50 == Approx(200).epsilon(0.02));
  CHECK(lognormal.mean == Approx(200 * std::exp(0.125)).epsilon(0.02));
  CHECK(prompts("lognormal:1:10").at(0) == 1);
  CHECK(prompts("lognormal:200:10").at(1 - 1e-16) == std::int64_t{1} << 30);
}

TEST_CASE("lengths of a file are its rows") {
  using Rows = std::vector<std::int64_t>;
  CHECK(parse_lengths("5\n7\n\n0\n", "l.csv", LengthOf::output) == Rows{5, 7, 1});
  CHECK(parse_lengths("5,1\n7,2\n", "l.csv", LengthOf::prompt) == Rows{5, 7});
  CHECK(parse_lengths("5,1\n7,2\n", "l.csv", LengthOf::output) == Rows{1, 2});
  CHECK(parse_lengths("tokens\n8\n", "l.csv", LengthOf::output) == Rows{8});
  const std::string azure = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n";
  CHECK(parse_lengths(azure, "a.csv", LengthOf::prompt) == Rows{374});
  CHECK(parse_lengths(azure, "a.csv", LengthOf::output) == Rows{44});
  CHECK_THROWS_WITH(parse_lengths("a,b\n1,2\n", "l.csv", LengthOf::prompt),
                    Contains("l.csv:1") && Contains("prompt_tokens"));
  CHECK_THROWS_WITH(parse_lengths("5\nseven\n", "l.csv", LengthOf::prompt), Contains("l.csv:2: 'seven'"));
  CHECK_THROWS_WITH(parse_lengths("5\n-7\n", "l.csv", LengthOf::prompt), Contains("l.csv:2"));
  CHECK_THROWS_WITH(parse_lengths("5,1\n7\n", "l.csv", LengthOf::output), Contains("l.csv:2: field 2"));
  CHECK_THROWS_WITH(parse_lengths("\n", "l.csv", LengthOf::prompt), Contains("no lengths"));
}

TEST_CASE("texts that are no lengths are refused by option") {
  for (const char* text : {"fixed", "fixed:0", "fixed:2.5", "fixed:3:4", "uniform:5", "uniform:9:5", "uniform:0:5",
                           "lognormal:5", "lognormal:0:1", "lognormal:5:-1", "lognormal:5:11", ""}) {
    INFO(text);
    CHECK_THROWS_WITH(prompts(text), Contains("--prompt-lengths: '" + std::string(text) + "'"));
  }
  CHECK_THROWS_WITH(prompts("poisson:5"), Contains("poisson:5"));  // no such file
}

TEST_CASE("a generated load is a function of its seed, and grows at its end") {
  GeneratedOptions options{20, prompts("uniform:10:500"), outputs("lognormal:30:1")};
  const Trace trace = generate(options).trace;
  options.requests = 30;
  const Trace longer = generate(options).trace;
  REQUIRE(longer.requests.size() == 30);
  for (std::size_t i = 0; i < 20; ++i) {
    CHECK(trace.requests[i].input_tokens == longer.requests[i].input_tokens);
    CHECK(trace.requests[i].output_tokens == longer.requests[i].output_tokens);
  }
  options.seed = 1;
  const Trace other = generate(options).trace;
  CHECK(std::any_of(other.requests.begin(), other.requests.end(), [&](const TraceRequest& request) {
    return request.input_tokens !=
           longer.requests[static_cast<std::size_t>(&request - other.requests.data())].input_tokens;
  }));
}

TEST_CASE("what has no longest length is cut to what the deployment takes") {
  GeneratedOptions options{2000, prompts("lognormal:300:2"), outputs("fixed:50")};
  options.max_length = 1000;
  const GeneratedTrace generated = generate(options);
  CHECK(generated.cut > 0);
  for (const TraceRequest& request : generated.trace.requests) {
    CHECK(request.input_tokens >= 1);
    CHECK(request.output_tokens >= 1);
    CHECK(request.input_tokens + request.output_tokens <= 1000);
  }
  // What was asked for by number is refused instead.
  const GeneratedOptions fixed{1, prompts("fixed:990"), outputs("fixed:50"), 0, 1, 0, 1000};
  const GeneratedTrace uncut = generate(fixed);
  CHECK(uncut.cut == 0);
  CHECK_THROWS_WITH(make_workload(uncut.trace, {}, 100, 1000), Contains("exceed the limit of 1000"));
}

TEST_CASE("prompts of a group share that part of their tokens, and no more") {
  GeneratedOptions options{12, prompts("uniform:100:200"), outputs("fixed:5")};
  options.prefix_share = 0.5;
  options.prefix_groups = 3;
  const Trace trace = generate(options).trace;
  const std::vector<Request> requests = make_workload(trace, {}, 50000, 4096);
  int pairs = 0;
  for (std::size_t i = 0; i < requests.size(); ++i) {
    CHECK(trace.requests[i].prefix_tokens == std::llround(0.5 * static_cast<double>(trace.requests[i].input_tokens)));
    for (std::size_t j = 0; j < i; ++j) {
      const TraceRequest &a = trace.requests[i], &b = trace.requests[j];
      const bool together = a.prefix_group == b.prefix_group;
      pairs += together;
      CHECK(common(requests[i], requests[j]) ==
            (together ? static_cast<std::size_t>(std::min(a.prefix_tokens, b.prefix_tokens)) : 0));
    }
  }
  CHECK(pairs > 5);
  options.prefix_share = 0;
  const std::vector<Request> alone = make_workload(generate(options).trace, {}, 50000, 4096);
  CHECK(common(alone[0], alone[1]) == 0);
}

TEST_CASE("prompts and outputs of one file stay together") {
  const std::string path = SUPERNODE_SOURCE_DIR "/tests/serving/lengths.csv";
  const GeneratedOptions options{50, prompts(path), outputs(path)};
  for (const TraceRequest& request : generate(options).trace.requests)
    CHECK(request.output_tokens == request.input_tokens / 10);
}

TEST_CASE("a load at a multiple of its rate is the same load, sooner") {
  const GeneratedOptions options{20, prompts("fixed:10"), outputs("fixed:5")};
  const Trace trace = generate(options).trace;
  WorkloadOptions rate;
  rate.request_rate = 4;
  rate.burstiness = 0.5;
  const std::vector<Request> once = make_workload(trace, rate, 100, 100);
  rate.load_factor = 2;
  const std::vector<Request> twice = make_workload(trace, rate, 100, 100);
  CHECK(once[0].arrival_s == 0);
  for (std::size_t i = 0; i < once.size(); ++i) {
    CHECK(twice[i].arrival_s == once[i].arrival_s / 2);
    CHECK(twice[i].prompt == once[i].prompt);
  }
}
