// Whatever is combined with whatever, each request has the tokens that the model alone gives it.
#include <algorithm>
#include <array>

#include "tests/serving/small_deployment.hpp"

using namespace supernode;
using namespace supernode::serving;
using namespace supernode::serving::test;

namespace {

struct Combination {
  ServeOptions options = some_options();
  std::vector<Request> requests;
};

/// The dies of a world of 4, 8 or 16 ranks, as one instance of each kind, so many that the experts divide over them. At 3
/// ranks there is no cache rank.
void as_one_instance(ServingConfig& config) {
  const int ranks = world().size();
  if (ranks == 16) config.cache_ranks = 3;
  config.prefill_instances = config.decode_instances = 1;
  config.prefill_dies = ranks == 16 ? 4 : ranks == 8 ? 2 : 1;
  config.decode_dies = ranks - 1 - config.cache_ranks - config.prefill_dies;
}

/// Two of each kind, where there are ranks for it.
void as_two_instances(ServingConfig& config) {
  if (world().size() < 8) return;
  config.prefill_instances = config.decode_instances = 2;
  config.prefill_dies = world().size() == 16 ? 2 : 1;
  config.decode_dies = world().size() == 16 ? 4 : 2;
}

/// Something that is on or off in a run, independent of all others.
struct Factor {
  const char* name;
  void (*switch_on)(Combination& of);
};

enum Factors : std::size_t {
  instances,
  pieces,
  microbatches,
  mtp,
  one_by_one,
  cancellations,
  samples,
  splits,
  rebalancing,
  n_factors
};

// In the order of the names above. What further parts a run may have is a row and a name.
constexpr std::array<Factor, n_factors> factors{{
    {"instances", [](Combination& of) { as_two_instances(of.options.serving); }},
    {"pieces",
     [](Combination& of) {
       of.options.serving.chunk_tokens = 24;
       of.options.serving.max_prefill_tokens = 60;
       of.options.serving.handover_piece.value = 1;  // a token in each message
     }},
    {"microbatches", [](Combination& of) { of.options.serving.microbatches = 2; }},
    {"mtp", [](Combination& of) { of.options.serving.mtp = "on"; }},
    // Each finds in the pool all that those before it stored; else what there is by then.
    {"one by one", [](Combination& of) { of.options.max_concurrency = 1; }},
    {"cancellations",
     [](Combination& of) {
       // In the queue, and early and late in what follows, wherever the hosts' pace puts that.
       for (std::size_t i = 2; i < of.requests.size(); i += 3)
         of.requests[i].cancel_s = of.requests[i].arrival_s + 0.006 * static_cast<double>(i - 2);
     }},
    {"samples",
     [](Combination& of) {
       for (Request& request : of.requests) request.sampler = {0.8, 1, 11};
     }},
    // All but the shortest prompts are computed by all dies of their instance.
    {"split prompts", [](Combination& of) { of.options.serving.split_prompts = 50; }},
    {"rebalancing",
     [](Combination& of) {
       // Often, and an expert takes several steps: most runs end in the middle of a move.
       of.options.serving.rebalance_interval = 2;
       of.options.serving.rebalance_threshold = 1;
       of.options.serving.rebalance_moves = 5;
       of.options.serving.rebalance_bytes_per_step.value = 40000;
     }},
}};

/// A design of 12 runs (Plackett and Burman): of any two of up to 11 factors each of the four combinations is in three
/// runs. So a fault that takes two parts to be on, or one on and one off, shows.
constexpr std::size_t n_runs = 12;
constexpr bool is_on(std::size_t run, std::size_t factor) {
  return run + 1 < n_runs && "11011100010"[(factor + run) % 11] == '1';
}
static_assert(n_factors <= n_runs - 1);

std::vector<Request> all_requests() {
  std::vector<Request> requests = some_requests();
  for (std::size_t i = 0; i < requests.size(); ++i) {
    requests[i].arrival_s = 0.01 * static_cast<double>(i);
    if (requests[i].max_output > 1) requests[i].max_output += 8;
  }
  return requests;
}

/// What the model alone says to each request, on rank 0: [samples][request].
std::array<std::vector<std::vector<std::int32_t>>, 2> expected_tokens() {
  std::array<std::vector<std::vector<std::int32_t>>, 2> expected;
  const Communicator alone = world().split(world().rank() == 0 ? 0 : MPI_UNDEFINED, 0);
  if (!alone) return expected;
  moe::Transformer model(some_options().checkpoint, {}, alone);
  for (const bool sampled : {false, true}) {
    Combination of{.requests = all_requests()};
    if (sampled) factors[samples].switch_on(of);
    for (const Request& request : of.requests) expected[sampled].push_back(generate_alone(model, request));
  }
  return expected;
}

/// On rank 0.
void check_tokens(const ServeOutcome& outcome, const Combination& run,
                  const std::vector<std::vector<std::int32_t>>& expected) {
  REQUIRE(outcome.requests.size() == run.requests.size());
  for (std::size_t i = 0; i < run.requests.size(); ++i) {
    INFO("request " << i);
    const ServedRequest& served = outcome.requests[i];
    const std::vector<std::int32_t>& tokens = served.record.tokens;
    CHECK(served.request->id == run.requests[i].id);
    CHECK(parts_of(served.record).sum() == served.record.finished - served.record.arrived);
    if (served.ended.why == EndReason::cancelled) {
      CHECK(run.requests[i].cancel_s);
      CHECK(tokens.size() < expected[i].size());
      CHECK(std::equal(tokens.begin(), tokens.end(), expected[i].begin()));
    } else {
      CHECK(served.ended.why == EndReason::length);
      CHECK(tokens == expected[i]);
      CHECK(served.record.hit_tokens + served.record.computed_tokens == served.request->prompt_tokens());
    }
  }
}

}  // namespace

TEST_CASE("in any combination served tokens equal generated ones, and all room is free at the end", "[combinations]") {
  const auto expected = expected_tokens();
  // Sixteen ranks take their time.
  for (std::size_t run = 0; run<n_runs; run += world().size()> 8 ? 4 : 1) {
    Combination of{.requests = all_requests()};
    as_one_instance(of.options.serving);
    of.options.serving.max_batch_tokens = 160;  // so that microbatches cut prompts at their 64th token
    const auto on = [&](std::size_t factor) { return is_on(run, factor); };
    std::string names;
    for (std::size_t factor = 0; factor < n_factors; ++factor) {
      if (!on(factor)) continue;
      factors[factor].switch_on(of);
      names += std::string(" ") + factors[factor].name;
    }
    INFO("run " << run << ":" << names);
    const ServeOutcome outcome = serve(world(), of.options, of.requests);
    if (world().rank() != 0) continue;
    check_tokens(outcome, of, expected[on(samples)]);
    CHECK(outcome.room->free_kv_tokens == outcome.room->kv_tokens);
    CHECK(outcome.room->free_slots == outcome.room->slots);
    CHECK(outcome.room->slots > 0);
    if (on(cancellations)) CHECK(outcome.requests[2].ended.why == EndReason::cancelled);
    CHECK((outcome.guesses.drafted > 0) == on(mtp));
    CHECK((outcome.guesses.accepted > 0) == on(mtp));
    CHECK(outcome.pool.hits + sum_of(outcome.pool.miss_reasons) == outcome.pool.lookups);
    if (of.options.serving.cache_ranks == 0) {
      CHECK(outcome.pool.lookups == 0);
    } else {
      CHECK(outcome.pool.stored_blocks > 0);
      // The prompt of 96 tokens that comes again: five blocks of 16 before the last token.
      if (on(one_by_one)) CHECK(outcome.requests[9].record.hit_tokens == 80);
    }
  }
}
