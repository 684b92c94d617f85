// A whole deployment in one job: what is served equals what the model says to the whole prompt at once.
#include <fmt/format.h>

#include "runtime/core/config_path.hpp"
#include "runtime/core/error.hpp"
#include "runtime/serving/roles.hpp"
#include "runtime/serving/server.hpp"
#include "tests/support/mpi_fixture.hpp"

using namespace supernode;
using namespace supernode::serving;
using namespace supernode::test;
using Catch::Matchers::Contains;

namespace {

/// A deployment for the ranks there are; false when they are too few for one.
bool fit_to_world(ServingConfig& config, int ranks) {
  config.cache_ranks = 1;
  switch (ranks) {
    case 3:  // no cache ranks
      config.prefill_instances = 1, config.decode_dies = 1, config.cache_ranks = 0;
      return true;
    case 4:
      config.prefill_instances = 1, config.decode_dies = 1;
      return true;
    case 8:
      config.prefill_instances = 1, config.prefill_dies = 2, config.decode_instances = 2, config.decode_dies = 2;
      return true;
    default:
      return false;
  }
}

std::vector<Request> some_requests() {
  // A shared prefix of 40 tokens, then lengths on and off block borders; one with a single output token.
  std::vector<Request> requests(9);
  for (std::size_t i = 0; i < requests.size(); ++i) {
    Request& r = requests[i];
    r.id = static_cast<std::int64_t>(i);
    r.arrival_s = 0.05 * static_cast<double>(i);
    r.output_tokens = i == 4 ? 1 : static_cast<int>(3 + i);
    for (int t = 0; t < 40; ++t) r.prompt.push_back('a' + t % 20);
    for (std::size_t t = 0; t < 8 * i; ++t) r.prompt.push_back(static_cast<std::int32_t>(32 + (t * (i + 3)) % 90));
  }
  requests.push_back(requests[7]);  // the very same prompt again: all but its last block from the pool
  requests.back().id = 9;
  requests.back().arrival_s = 1.0;
  return requests;
}

ServeOptions some_options() {
  ServeOptions options;
  options.checkpoint = find_model(default_model);
  options.serving.context_block_tokens = 16;
  options.serving.decode_kv_tokens = 4096;
  options.serving.max_batch_tokens = 64;
  options.pool.capacity.value = 8 << 20;
  options.deadline_s = 60;
  return options;
}

/// The model alone, on this rank: prompt at once, then token by token.
std::vector<std::int32_t> generate_alone(moe::Transformer& model, const Request& request,
                                         const moe::SamplerOptions& sampler, std::size_t index) {
  moe::KvCache cache = model.make_cache();
  std::vector<std::int32_t> tokens;
  std::vector<std::int32_t> input = request.prompt;
  while (static_cast<int>(tokens.size()) < request.output_tokens) {
    const moe::SequenceChunk chunk{&cache, input};
    const moe::StepResult step = model.forward(std::span(&chunk, 1));
    tokens.push_back(moe::sample(step.row(0), sampler, index, cache.length()));
    input = {tokens.back()};
  }
  return tokens;
}

}  // namespace

TEST_CASE("served tokens equal generated ones, also when the prefix came from the pool") {
  ServeOptions options = some_options();
  if (!fit_to_world(options.serving, world().size())) return;
  options.sampler.temperature = GENERATE(0.0, 0.8);
  options.sampler.seed = 11;
  // One at a time, each finds all that those before it stored; together, what there was by then.
  options.max_concurrency = GENERATE(0, 1);
  const std::vector<Request> requests = some_requests();
  const ServeOutcome outcome = serve(world(), options, requests);

  const Communicator alone = world().split(world().rank() == 0 ? 0 : MPI_UNDEFINED, 0);
  if (!alone) return;
  moe::Transformer model(options.checkpoint, {}, alone);
  CHECK(outcome.records.size() == requests.size());
  for (std::size_t i = 0; i < outcome.records.size(); ++i) {
    INFO("request " << i);
    const RequestRecord& record = outcome.records[i];
    CHECK(record.done);
    CHECK(record.tokens == generate_alone(model, requests[i], options.sampler, i));
    CHECK(record.hit_tokens + record.computed_tokens == static_cast<int>(requests[i].prompt.size()));
    CHECK(parts_of(record).sum() == record.finished - record.arrived);
  }
  if (options.serving.cache_ranks > 0) {
    // 96 tokens: five blocks of 16 before the last token.
    if (options.max_concurrency == 1) CHECK(outcome.records[9].hit_tokens == 80);
    if (options.max_concurrency == 1) CHECK(outcome.pool.hits > 0);
    CHECK(outcome.pool.stored_blocks > 0);
    std::uint64_t missed = 0;
    for (const auto& [reason, count] : outcome.pool.miss_reasons) missed += count;
    CHECK(outcome.pool.hits + missed == outcome.pool.lookups);
  } else {
    CHECK(outcome.records[9].hit_tokens == 0);
    CHECK(outcome.pool.lookups == 0);
  }
}

TEST_CASE("a model from the pool is read once and serves the same tokens") {
  ServeOptions options = some_options();
  if (world().size() < 4 || !fit_to_world(options.serving, world().size())) return;
  options.pool.capacity.value = 16 << 20;
  const std::vector<Request> requests = some_requests();
  const ServeOutcome from_files = serve(world(), options, requests);
  options.model_from_pool = true;
  const ServeOutcome from_pool = serve(world(), options, requests);
  if (world().rank() == 0) {
    CHECK(from_files.pool.model_bytes == 0);
    CHECK(from_pool.pool.model_bytes > 7'000'000);
    CHECK(from_pool.pool.model_bytes_read == from_pool.pool.model_bytes);
    CHECK(from_pool.records.size() == requests.size());
    for (std::size_t i = 0; i < from_pool.records.size(); ++i)
      CHECK(from_pool.records[i].tokens == from_files.records[i].tokens);
  }
  options.pool.capacity.value = 4 << 20;
  CHECK_THROWS_WITH(serve(world(), options, requests), Contains("--model-from-pool") && Contains("pool.capacity"));
}

TEST_CASE("a pool too small for the prompts costs hits, nothing else") {
  ServeOptions options = some_options();
  if (world().size() < 4 || !fit_to_world(options.serving, world().size())) return;
  options.pool.capacity.value = 128 << 10;
  const std::vector<Request> requests = some_requests();
  const ServeOutcome outcome = serve(world(), options, requests);
  if (world().rank() != 0) return;
  for (std::size_t i = 0; i < outcome.records.size(); ++i) {
    CHECK(outcome.records[i].done);
    CHECK(outcome.records[i].tokens.size() == static_cast<std::size_t>(requests[i].output_tokens));
  }
}

TEST_CASE("cache ranks that go silent or lose everything cost hits, never a request") {
  ServeOptions options = some_options();
  if (world().size() < 4 || !fit_to_world(options.serving, world().size())) return;
  const std::string what = GENERATE("owner_stall@0+1.5", "owner_loss:0@0+1.5", "owner_loss@0.3+1.5");
  INFO(what);
  options.injections = parse_injections({what}, options.serving.cache_ranks);
  options.pool.deadline = 0.3;
  options.max_concurrency = 1;
  const std::vector<Request> requests = some_requests();
  const ServeOutcome outcome = serve(world(), options, requests);
  if (world().rank() != 0) return;
  for (std::size_t i = 0; i < outcome.records.size(); ++i) {
    const RequestRecord& record = outcome.records[i];
    CHECK(record.done);
    CHECK(record.tokens.size() == static_cast<std::size_t>(requests[i].output_tokens));
    CHECK(record.hit_tokens + record.computed_tokens == static_cast<int>(requests[i].prompt.size()));
  }
  std::uint64_t missed = 0;
  for (const auto& [reason, count] : outcome.pool.miss_reasons) missed += count;
  CHECK(outcome.pool.hits + missed == outcome.pool.lookups);
}

TEST_CASE("injections are read, or refused in one line") {
  const std::vector<Injection> some = parse_injections({"owner_loss:1@2.5+10", "owner_stall"}, 2);
  CHECK(some[0].kind == InjectionKind::owner_stall);
  CHECK(some[0].duration_s == 0);
  CHECK(some[1].kind == InjectionKind::owner_loss);
  CHECK(some[1].cache_index == 1);
  CHECK(some[1].start_s == 2.5);
  CHECK(some[1].duration_s == 10);
  CHECK_THROWS_WITH(parse_injection("owner_fire", 1), Contains("known: owner_stall, owner_loss"));
  CHECK_THROWS_WITH(parse_injection("owner_stall:x", 1), Contains("':' is followed by no number"));
  CHECK_THROWS_WITH(parse_injection("owner_stall:1", 1), Contains("no cache rank 1; serving.cache_ranks is 1"));
  CHECK_THROWS_WITH(parse_injection("owner_stall:0.5", 1), Contains("no cache rank 0.5"));
  CHECK_THROWS_WITH(parse_injection("owner_stall@1@2", 1), Contains("'@2' is not understood"));
  CHECK_THROWS_WITH(parse_injection("owner_stall+-1", 1), Contains("'+' is followed by no number"));
}

TEST_CASE("tight limits are kept and everybody is served") {
  ServeOptions options = some_options();
  if (!fit_to_world(options.serving, world().size())) return;
  options.serving.decode_kv_tokens = 130;  // little more than one request
  options.serving.max_decode_batch = 2;
  options.serving.max_prefill_tokens = 60;
  options.max_concurrency = 3;
  const ServeOutcome outcome = serve(world(), options, some_requests());
  if (world().rank() != 0) return;
  for (const RequestRecord& record : outcome.records) CHECK(record.done);
}

TEST_CASE("a world of the wrong size or a bad checkpoint is an error on all ranks") {
  ServeOptions options = some_options();
  options.serving.decode_dies = 50;
  CHECK_THROWS_WITH(serve(world(), options, {}), Contains("needs 54 ranks"));
  options = some_options();
  if (!fit_to_world(options.serving, world().size())) return;
  options.checkpoint = "/nowhere";
  CHECK_THROWS_AS(serve(world(), options, {}), AgreedError);
}
