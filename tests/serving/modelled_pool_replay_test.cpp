// The hit tokens of a pool of ample size are those of a plain replay: a set of prefixes, each with the time from which
// on it can be seen. The replay names prefixes by the trace's hash ids, the pool by keys of the prompts' tokens.

#include <algorithm>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "runtime/core/files.hpp"
#include "runtime/core/random.hpp"
#include "runtime/serving/coordinator/modelled_pool.hpp"
#include "runtime/serving/load/trace.hpp"
#include "runtime/serving/load/workload.hpp"
#include "tests/serving/modelled_pool_checks.hpp"
#include "tests/support/catch.hpp"

using namespace supernode;
using namespace supernode::serving;
using namespace supernode::test;
using pool::Key;

namespace {

/// A request on a made-up schedule.
struct Scheduled {
  RunTime looked_up, announced, visible;
};

/// Later requests may overtake earlier ones; some blocks take long to be written.
std::vector<Scheduled> made_up_times(const std::vector<Request>& requests) {
  std::vector<Scheduled> times;
  Random random(11);
  for (const Request& request : requests) {
    const RunTime start = RunTime{} + run_span(request.arrival_s + 2 * random.uniform());
    const RunTime end = start + run_span(1e-4 * request.prompt_tokens() * (0.5 + random.uniform()));
    times.push_back(
        {start, end, end + run_span(random.below(4) == 0 ? 60 * random.uniform() : 0.2 * random.uniform())});
  }
  return times;
}

/// (time, request, whether it announces), in modelled order.
struct Event {
  RunTime time;
  std::size_t request;
  bool announces;
};

std::vector<Event> in_order(const std::vector<Scheduled>& times) {
  std::vector<Event> events;
  for (std::size_t r = 0; r < times.size(); ++r) {
    events.push_back({times[r].looked_up, r, false});
    events.push_back({times[r].announced, r, true});
  }
  std::stable_sort(events.begin(), events.end(), [](const Event& a, const Event& b) { return a.time < b.time; });
  return events;
}

std::vector<int> pool_hits(ModelledPool& pool, const std::vector<Request>& requests,
                           const std::vector<Scheduled>& times) {
  const Key root = pool::chain_root("default", "a model", pool.config().block_tokens);
  std::vector<std::vector<Key>> keys;
  for (const Request& request : requests)
    keys.push_back(pool::chain_keys(root, request.prompt, pool.config().block_tokens));
  std::vector<int> tokens(requests.size());
  for (const Event& event : in_order(times)) {
    const std::size_t r = event.request;
    if (event.announces)
      pool.publish(pool.announce(keys[r], event.time), times[r].visible);
    else
      tokens[r] = pool.lookup(keys[r], requests[r].prompt_tokens(), event.time).tokens;
  }
  return tokens;
}

std::vector<int> replayed_hits(const Trace& trace, int block_tokens, const std::vector<Scheduled>& times) {
  const std::int64_t blocks_an_id = trace.block_tokens / block_tokens;
  std::map<std::pair<std::int64_t, std::int64_t>, std::int64_t> prefixes;  // (prefix before, hash id) -> prefix
  const auto names = [&](const TraceRequest& request) {                    // of all full blocks
    std::vector<std::pair<std::int64_t, std::int64_t>> blocks;
    std::int64_t prefix = 0;
    for (const std::int64_t id : request.hash_ids) {
      prefix = prefixes.try_emplace({prefix, id}, static_cast<std::int64_t>(prefixes.size()) + 1).first->second;
      for (std::int64_t part = 0; part < blocks_an_id; ++part) blocks.emplace_back(prefix, part);
    }
    blocks.resize(static_cast<std::size_t>(request.input_tokens / block_tokens));
    return blocks;
  };
  std::map<std::pair<std::int64_t, std::int64_t>, RunTime> visible;
  std::vector<int> tokens(trace.requests.size());
  for (const Event& event : in_order(times)) {
    const TraceRequest& request = trace.requests[event.request];
    if (event.announces) {
      for (const auto& block : names(request)) visible.emplace(block, times[event.request].visible);
      continue;
    }
    for (const auto& block : names(request)) {
      const auto found = visible.find(block);
      if (found == visible.end() || found->second > event.time) break;
      tokens[event.request] += block_tokens;
    }
    while (tokens[event.request] >= request.input_tokens) tokens[event.request] -= block_tokens;
  }
  return tokens;
}

void check_against_replay(const Trace& trace, int block_tokens) {
  const std::vector<Request> requests = make_workload(trace, {.seed = 5}, 1000, 1 << 20);
  const std::vector<Scheduled> times = made_up_times(requests);
  const ModelledPoolConfig ample{.owners = {5, 6, 7},
                                 .capacity_bytes = std::int64_t{1} << 50,
                                 .block_tokens = block_tokens,
                                 .block_bytes = 1 << 20,
                                 .pieces_per_block = 61};
  ModelledPool pool(ample);
  const std::vector<int> hits = pool_hits(pool, requests, times), expected = replayed_hits(trace, block_tokens, times);
  CHECK(hits == expected);
  std::uint64_t sum = 0;
  for (const int tokens : expected) sum += static_cast<std::uint64_t>(tokens);
  CHECK(sum > 0);
  CHECK(pool.stats().hit_tokens == sum);
  CHECK(pool.stats().evicted == 0);
  CHECK(misses(pool, BlockMiss::not_yet_visible) > 0);
  check_sums(pool);

  // With less room there are no more hits, whatever gives way, and the sums hold.
  ModelledPoolConfig scarce = ample;
  scarce.capacity_bytes = static_cast<std::int64_t>(pool.stats().stored / 10) * scarce.block_bytes;
  ModelledPool small(scarce);
  const std::vector<int> fewer = pool_hits(small, requests, times);
  for (std::size_t r = 0; r < fewer.size(); ++r) CHECK(fewer[r] <= hits[r]);
  CHECK(small.stats().evicted > 0);
  check_sums(small);
  ModelledPool again(scarce);
  CHECK(pool_hits(again, requests, times) == fewer);
}

}  // namespace

TEST_CASE("an ample pool gives the hits of a plain replay: a made-up trace") {
  std::string text;
  Random random(1);
  for (int r = 0; r < 60; ++r) {
    // One of three conversations, which share their first block and grow turn by turn.
    const auto conversation = static_cast<int>(random.below(3));
    const int blocks = 1 + r / 6;
    std::string ids = "0";
    for (int b = 1; b < blocks; ++b) ids += ", " + std::to_string(100 * conversation + b);
    const int tokens = 64 * blocks - static_cast<int>(random.below(4)) * 16;
    text += "{\"timestamp\": " + std::to_string(300 * r) + ", \"input_length\": " + std::to_string(tokens) +
            ", \"output_length\": 4, \"hash_ids\": [" + ids + "]}\n";
  }
  check_against_replay(parse_trace(text, "made up", {.block_tokens = 64}), 16);
}

TEST_CASE("an ample pool gives the hits of a plain replay: Mooncake's trace") {
  const std::string path = shared_path("data/traces/mooncake_conversation.jsonl");
  if (path.empty()) return;
  check_against_replay(parse_trace(read_file(path), path, {.max_requests = 1000}), 128);
}
