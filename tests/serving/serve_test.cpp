// A whole deployment in one job: what is served equals what the model says to the whole prompt at once.
#include <algorithm>
#include <limits>
#include <map>
#include <set>

#include <fmt/format.h>

#include "runtime/core/config_path.hpp"
#include "runtime/core/error.hpp"
#include "runtime/serving/roles.hpp"
#include "runtime/serving/server.hpp"
#include "runtime/serving/workers/real_engine.hpp"
#include "tests/serving/small_deployment.hpp"

using namespace supernode;
using namespace supernode::serving;
using namespace supernode::serving::test;
using namespace supernode::test;
using Catch::Matchers::Contains;

namespace {

/// Full blocks of prompts that a prefill die had to compute.
std::uint64_t computed_blocks(const ServeOutcome& outcome, int block_tokens) {
  int blocks = 0;
  for (const ServedRequest& served : outcome.requests)
    blocks += served.request->prompt_tokens() / block_tokens - served.record.hit_tokens / block_tokens;
  return static_cast<std::uint64_t>(blocks);
}

/// Prompt tokens that would have come from the pool if a batch's blocks were there `batches` batches later. One prefill
/// instance: its batches follow one another, and those of a batch began at one time.
int possible_hit_tokens(const ServeOutcome& outcome, int block_tokens, std::size_t batches) {
  std::map<RunTime, std::vector<const ServedRequest*>> by_batch;
  for (const ServedRequest& served : outcome.requests) by_batch[served.record.prefill_started].push_back(&served);
  using Prefix = std::vector<std::int32_t>;
  std::vector<std::set<Prefix>> computed;
  int possible = 0;
  for (const auto& [start, batch] : by_batch) {
    std::set<Prefix>& mine = computed.emplace_back();
    for (const ServedRequest* served : batch) {
      const Prefix& prompt = served->request->prompt;
      const auto stored = [&](const Prefix& prefix) {
        const std::size_t visible = computed.size() > batches ? computed.size() - batches : 0;
        return std::any_of(computed.begin(), computed.begin() + static_cast<std::ptrdiff_t>(visible),
                           [&](const std::set<Prefix>& blocks) { return blocks.contains(prefix); });
      };
      bool all = true;
      for (std::ptrdiff_t end = block_tokens; end <= static_cast<std::ptrdiff_t>(prompt.size()); end += block_tokens) {
        const Prefix prefix(prompt.begin(), prompt.begin() + end);
        all = all && stored(prefix);
        if (all && end < static_cast<std::ptrdiff_t>(prompt.size())) possible += block_tokens;
        mine.insert(prefix);
      }
    }
  }
  return possible;
}

void check_same_tokens(const ServeOutcome& a, const ServeOutcome& b) {
  CHECK(a.requests.size() == b.requests.size());
  for (std::size_t i = 0; i < std::min(a.requests.size(), b.requests.size()); ++i)
    CHECK(a.requests[i].record.tokens == b.requests[i].record.tokens);
}

}  // namespace

TEST_CASE("a deployment serves again with an empty pool and the same tokens, with and without caching") {
  ServeOptions options = some_options();
  options.max_concurrency = 1;
  const std::vector<Request> requests = some_requests();
  Deployment deployment(world());
  const ServeOutcome first = deployment.serve(options, requests);
  const ServeOutcome again = deployment.serve(options, requests);
  check_served(again, requests);
  check_same_tokens(first, again);
  for (std::size_t i = 0; i < again.requests.size(); ++i)
    CHECK(again.requests[i].record.hit_tokens == first.requests[i].record.hit_tokens);
  options.serving.context_cache = false;
  const ServeOutcome uncached = deployment.serve(options, requests);
  check_served(uncached, requests);
  check_same_tokens(first, uncached);
  CHECK(uncached.pool.lookups == 0);
}

TEST_CASE("experts that change dies while serving change no token, and are back for the next run") {
  ServeOptions options = some_options();
  // Instances of two dies at least.
  if (world().size() == 4) options.serving.cache_ranks = 0, options.serving.decode_dies = 2;
  options.serving.max_batch_tokens = 160;
  const std::vector<Request> requests = some_requests();
  std::vector<std::vector<std::int32_t>> expected;
  const Communicator alone = world().split(world().rank() == 0 ? 0 : MPI_UNDEFINED, 0);
  if (alone) {
    moe::Transformer model(options.checkpoint, {}, alone);
    for (const Request& request : requests) expected.push_back(generate_alone(model, request));
  }
  for (const auto& [microbatches, mtp] : {std::pair(1, "off"), std::pair(2, "on")}) {
    options.serving.microbatches = microbatches;
    options.serving.mtp = mtp;
    Deployment deployment(world());
    // Often, and an expert takes several steps: most runs end in the middle of a move.
    options.serving.rebalance_interval = 2;
    options.serving.rebalance_threshold = 1;
    options.serving.rebalance_moves = 5;
    options.serving.rebalance_bytes_per_step.value = 40000;
    const ServeOutcome moving = deployment.serve(options, requests);
    options.serving.rebalance_interval = 0;
    const ServeOutcome still = deployment.serve(options, requests), fresh = serve(world(), options, requests);
    if (world().rank() != 0) continue;
    for (const ServeOutcome* outcome : {&moving, &still, &fresh}) check_served(*outcome, requests);
    for (std::size_t i = 0; i < requests.size(); ++i) {
      INFO("request " << i << ", mtp " << mtp);
      CHECK(moving.requests[i].record.tokens == expected[i]);
      CHECK(still.requests[i].record.tokens == expected[i]);
    }
    CHECK(still.balance.empty());
    std::uint64_t moved = 0;
    for (const InstanceBalance& one : moving.balance) {
      CHECK(one.figures.samples.size() > 1);
      CHECK(one.figures.samples.front().imbalance >= 1);
      moved += one.figures.experts_moved;
    }
    CHECK((moved > 0) == (world().size() > 3));
  }
}

namespace {

/// Prefill instances of several dies: two for 4 ranks (without a pool), four for 8.
ServingConfig wide_deployment_for(int ranks) {
  ServingConfig config;
  config.prefill_instances = 1;
  config.prefill_dies = ranks / 2;
  config.cache_ranks = ranks == 8 ? 1 : 0;
  config.decode_dies = ranks == 8 ? 2 : 1;
  return config;
}

/// Pieces of a prompt that all dies of an instance share; what else is on; whether half of the requests are cancelled.
struct SplitCase {
  int chunk_tokens, max_concurrency, microbatches;
  const char* mtp;
  bool cancels;
};

}  // namespace

TEST_CASE("prompts that all dies of an instance share have the same tokens, whatever else is on", "[wide]") {
  ServeOptions options = some_options();
  const ServingConfig wide = wide_deployment_for(world().size());
  options.serving.prefill_instances = wide.prefill_instances;
  options.serving.prefill_dies = wide.prefill_dies;
  options.serving.cache_ranks = wide.cache_ranks;
  options.serving.decode_instances = wide.decode_instances;
  options.serving.decode_dies = wide.decode_dies;
  options.serving.split_prompts = 50;  // all but the first two requests
  std::vector<Request> requests = some_requests();
  for (Request& request : requests) request.sampler = {0.8, 1, 11};
  std::vector<std::vector<std::int32_t>> expected;
  const Communicator alone = world().split(world().rank() == 0 ? 0 : MPI_UNDEFINED, 0);
  if (alone) {
    moe::Transformer model(options.checkpoint, {}, alone);
    for (const Request& request : requests) expected.push_back(generate_alone(model, request));
  }
  for (const SplitCase& c : {SplitCase{0, 0, 1, "off", false}, SplitCase{24, 1, 2, "off", false},
                             SplitCase{40, 1, 1, "on", false}, SplitCase{24, 0, 2, "on", true}}) {
    INFO("pieces of " << c.chunk_tokens << ", " << c.max_concurrency << " at a time, microbatches " << c.microbatches
                      << ", mtp " << c.mtp << (c.cancels ? ", half of them cancelled" : ""));
    options.serving.chunk_tokens = c.chunk_tokens;
    options.serving.max_prefill_tokens = c.chunk_tokens > 0 ? 90 : 8192;
    options.serving.handover_piece.value = c.chunk_tokens == 40 ? 16 << 20 : 4096;
    options.max_concurrency = c.max_concurrency;
    options.serving.microbatches = c.microbatches;
    options.serving.mtp = c.mtp;
    for (std::size_t i = 1; i < requests.size(); i += 2)
      requests[i].cancel_s =
          c.cancels ? requests[i].arrival_s + 0.003 * static_cast<double>(i) : std::numeric_limits<double>::infinity();
    const ServeOutcome outcome = serve(world(), options, requests);
    if (!c.cancels) check_served(outcome, requests);
    if (world().rank() != 0) continue;
    REQUIRE(outcome.requests.size() == requests.size());
    for (std::size_t i = 0; i < requests.size(); ++i) {
      INFO("request " << i);
      std::vector<std::int32_t> wanted = expected[i];
      const std::vector<std::int32_t>& tokens = outcome.requests[i].record.tokens;
      if (!outcome.requests[i].completed()) wanted.resize(std::min(wanted.size(), tokens.size()));
      if (i % 2 == 0 || !c.cancels) CHECK(outcome.requests[i].completed());
      CHECK(tokens == wanted);
    }
    if (options.serving.cache_ranks == 0 || c.cancels) continue;
    CHECK(outcome.pool.dropped_blocks == 0);
    CHECK(outcome.pool.stored_blocks + outcome.pool.known_blocks == computed_blocks(outcome, 16));
    // 96 tokens: five blocks of 16 before the last token.
    if (c.max_concurrency == 1) CHECK(outcome.requests[9].record.hit_tokens == 80);
  }
}

TEST_CASE("a prefix from the pool costs no guess", "[pool]") {
  ServeOptions options = some_options();
  options.serving.mtp = "on";
  options.max_concurrency = 1;
  // Four blocks that all share, and then another way on for each.
  std::vector<Request> requests(6);
  for (std::size_t i = 0; i < requests.size(); ++i) {
    requests[i].id = i;
    requests[i].max_output = 24;
    for (std::int32_t t = 0; t < 64; ++t) requests[i].prompt.push_back(97 + t * 5 % 26);
    for (std::size_t t = 0; t < 6 + 4 * i; ++t)
      requests[i].prompt.push_back(static_cast<std::int32_t>(97 + (t * (i + 2) + i) % 26));
  }
  const ServeOutcome hit = serve(world(), options, requests);
  options.serving.context_block_tokens = 4096;  // no prompt has a block
  const ServeOutcome computed = serve(world(), options, requests);
  check_served(hit, requests);
  check_same_tokens(hit, computed);
  if (world().rank() != 0) return;
  CHECK(hit.requests.back().record.hit_tokens >= 64);
  CHECK(computed.pool.hits == 0);
  CHECK(hit.guesses == computed.guesses);
  CHECK(hit.guesses.accepted > 0);
}

TEST_CASE("guesses take a model with an MTP module") {
  ServeOptions options = some_options();
  options.checkpoint = source_path("tests/moe/golden/tiny");
  options.serving.mtp = "on";
  CHECK_THROWS_WITH(serve(world(), options, {}), Contains("serving.mtp") && Contains("no MTP module"));
}

TEST_CASE("a stop token ends a request where the model draws it") {
  ServeOptions options = some_options();
  std::vector<Request> requests = some_requests();
  for (Request& request : requests) request.max_output += 8;
  const ServeOutcome whole = serve(world(), options, requests);
  check_served(whole, requests);
  // What a request draws differs between requests, so its third token stops some of the others, too.
  // Requests matter on rank 0 only.
  const std::int32_t token = world().rank() == 0 ? whole.requests.at(2).record.tokens.at(2) : 0;
  for (Request& request : requests) request.stop = {token};
  const ServeOutcome stopped = serve(world(), options, requests);
  if (world().rank() != 0) return;
  REQUIRE(stopped.requests.size() == requests.size());
  for (std::size_t i = 0; i < requests.size(); ++i) {
    std::vector<std::int32_t> expected = whole.requests[i].record.tokens;
    const auto stop = std::find(expected.begin(), expected.end(), token);
    CHECK(stopped.requests[i].ended.why == (stop == expected.end() ? EndReason::length : EndReason::stop));
    if (stop != expected.end()) expected.erase(stop + 1, expected.end());
    CHECK(stopped.requests[i].record.tokens == expected);
  }
  CHECK(stopped.requests[2].record.tokens.size() <= 3);
}

TEST_CASE("a run ends in order when the last batch leaves a die of the instance without a request") {
  ServeOptions options = some_options();
  // One request of one token: with two dies in the instance, the other one's report is empty.
  std::vector<Request> requests(1);
  requests[0].id = 3;
  requests[0].max_output = 1;
  requests[0].prompt.assign(40, 'a');
  for (int run = 0; run < 5; ++run) check_served(serve(world(), options, requests), requests);
}

TEST_CASE("a model from the pool is read once and serves the same tokens", "[pool]") {
  ServeOptions options = some_options();
  options.pool.capacity.value = 16 << 20;
  const std::vector<Request> requests = some_requests();
  const ServeOutcome from_files = serve(world(), options, requests);
  options.model_from_pool = true;
  const ServeOutcome from_pool = serve(world(), options, requests);
  check_served(from_pool, requests);
  check_same_tokens(from_pool, from_files);
  if (world().rank() == 0) {
    CHECK(from_files.pool.model_bytes == 0);
    CHECK(from_pool.pool.model_bytes > 7'000'000);
    CHECK(from_pool.pool.model_bytes_read == from_pool.pool.model_bytes);
  }
  options.pool.capacity.value = 4 << 20;
  CHECK_THROWS_WITH(serve(world(), options, requests), Contains("--model-from-pool") && Contains("pool.capacity"));
}

TEST_CASE("a pool too small for the prompts costs hits, nothing else", "[pool]") {
  ServeOptions options = some_options();
  options.max_concurrency = 1;
  const std::vector<Request> requests = some_requests();
  const ServeOutcome ample = serve(world(), options, requests);
  options.pool.capacity.value = 128 << 10;
  const ServeOutcome small = serve(world(), options, requests);
  check_served(small, requests);
  check_same_tokens(small, ample);
  if (world().rank() == 0) CHECK(small.pool.hits < ample.pool.hits);
}

TEST_CASE("prefill that never idles stores all its blocks, and finds them", "[pool]") {
  ServeOptions options = some_options();
  options.serving.max_prefill_tokens = 400;
  // Four conversations, whose turns come at once: a turn's prompt is the one before it and 48 tokens more.
  constexpr std::size_t conversations = 4, turns = 8;
  std::vector<Request> requests(conversations * turns);
  for (std::size_t i = 0; i < requests.size(); ++i) {
    requests[i].id = i;
    requests[i].max_output = 2;
    const std::size_t length = 48 * (i / conversations + 1);
    for (std::size_t t = 0; t < length; ++t)
      requests[i].prompt.push_back(static_cast<std::int32_t>(32 + (t * (i % conversations + 3)) % 90));
  }
  // A queue of few blocks, each of 16 tokens and 1280 bytes a token, slows the die down.
  options.pool.store_buffer.value = GENERATE(64u << 20, 3u * 16u * 1280u);
  const ServeOutcome outcome = serve(world(), options, requests);
  check_served(outcome, requests);
  if (world().rank() != 0) return;
  CHECK(outcome.pool.dropped_blocks == 0);
  CHECK(outcome.pool.drop_reasons.empty());
  CHECK(outcome.pool.stored_blocks + outcome.pool.known_blocks == computed_blocks(outcome, 16));
  int hit_tokens = 0;
  for (const ServedRequest& served : outcome.requests) hit_tokens += served.record.hit_tokens;
  const int possible = possible_hit_tokens(outcome, 16, 2);
  CHECK(possible > 0);
  CHECK(hit_tokens >= 0.95 * possible);
}

TEST_CASE("a block that no queue or owner takes is counted with its reason", "[pool]") {
  ServeOptions options = some_options();
  const bool queue = GENERATE(true, false);
  if (queue)
    options.pool.store_buffer.value = 1000;
  else
    options.pool.capacity.value = 16 << 10;
  const std::vector<Request> requests = some_requests();
  const ServeOutcome outcome = serve(world(), options, requests);
  check_served(outcome, requests);
  if (world().rank() != 0) return;
  CHECK(outcome.pool.dropped_blocks == computed_blocks(outcome, 16));
  CHECK(outcome.pool.drop_reasons ==
        std::map<std::string, std::uint64_t>{{queue ? "queue_full" : "too_large", outcome.pool.dropped_blocks}});
}

TEST_CASE("cache ranks that go silent or lose everything cost hits, never a request", "[pool]") {
  ServeOptions options = some_options();
  options.max_concurrency = 1;
  const std::vector<Request> requests = some_requests();
  const ServeOutcome undisturbed = serve(world(), options, requests);
  const std::string what = GENERATE("owner_stall@0+1.5", "owner_loss:0@0+1.5", "owner_loss@0.3+1.5");
  INFO(what);
  options.injections = parse_injections({what}, options.serving);
  options.pool.deadline = 0.3;
  const ServeOutcome outcome = serve(world(), options, requests);
  check_served(outcome, requests);
  check_same_tokens(outcome, undisturbed);
  if (world().rank() != 0) return;
  CHECK(outcome.pool.miss_reasons.contains("owner_down"));
  CHECK(outcome.pool.hits < undisturbed.pool.hits);
}

TEST_CASE("tight limits are kept and everybody is served") {
  ServeOptions options = some_options();
  options.serving.decode_kv_tokens = 130;  // little more than one request
  options.serving.max_decode_batch = 2;
  options.serving.max_prefill_tokens = 60;
  options.max_concurrency = 3;
  const std::vector<Request> requests = some_requests();
  const ServeOutcome outcome = serve(world(), options, requests);
  check_served(outcome, requests);
  const int dies = options.serving.decode_instances * options.serving.decode_dies;
  for (const ServedRequest& one : outcome.requests) {
    // When this one left the queue, with all that were under way.
    int in_flight = 0, kv_tokens = 0;
    for (const ServedRequest& other : outcome.requests) {
      if (other.record.prefill_started > one.record.prefill_started ||
          other.record.finished <= one.record.prefill_started)
        continue;
      ++in_flight;
      kv_tokens += other.request->prompt_tokens() + other.request->max_output;
    }
    CHECK(in_flight <= 3);
    CHECK(in_flight <= 2 * dies);
    CHECK(kv_tokens <= 130 * dies);
  }
}

TEST_CASE("a world of the wrong size is an error on all ranks", "[any size]") {
  ServeOptions options = some_options();
  options.serving = {};
  options.serving.decode_dies = 50;
  CHECK_THROWS_WITH(serve(world(), options, {}), Contains("needs 54 ranks"));
}

TEST_CASE("a bad checkpoint is an error on all ranks") {
  ServeOptions options = some_options();
  options.checkpoint = "/nowhere";
  CHECK_THROWS_AS(serve(world(), options, {}), AgreedError);
}

TEST_CASE("a sequence goes on elsewhere from the exported tokens of its state", "[any size]") {
  const Communicator alone = world().split(world().rank(), 0);
  moe::TransformerOptions wanted;
  wanted.max_batch_tokens = 64;
  moe::Transformer model(find_model(default_model), wanted, alone);
  RealEngine engine(model);
  CHECK(engine.state_bytes_per_token() == moe::state_bytes_per_token(model.config(), moe::DraftCache::none));

  const std::vector<std::int32_t> prompt = some_requests()[2].prompt;
  const int tokens = static_cast<int>(prompt.size()), first = 24;
  const auto next_token = [&](EngineState& state, std::span<const std::int32_t> input) {
    const StepWork work{7, &state, input, {0.8, 1, 11}};
    return engine.step(std::span(&work, 1), RunTime{}).tokens.at(0).value();
  };
  const auto here = engine.make_state(tokens + 1), elsewhere = engine.make_state(tokens + 1);
  const std::int32_t token = next_token(*here, prompt);
  REQUIRE(here->length() == tokens);
  for (const auto& [begin, end] : {std::pair(0, first), std::pair(first, tokens)}) {
    std::vector<std::byte> piece(static_cast<std::size_t>(end - begin) * engine.state_bytes_per_token());
    here->export_tokens(begin, end - begin, piece);
    elsewhere->import_tokens(begin, end - begin, piece);
  }
  CHECK(elsewhere->length() == tokens);
  CHECK(next_token(*elsewhere, std::span(&token, 1)) == next_token(*here, std::span(&token, 1)));
}
