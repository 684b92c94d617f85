#pragma once
// A whole deployment in one job, small, and what holds of every run of it.

#include <map>
#include <vector>

#include "runtime/core/config_path.hpp"
#include "runtime/serving/server.hpp"
#include "tests/support/mpi_fixture.hpp"

namespace supernode::serving::test {

using supernode::test::world;

/// A deployment for 3 ranks (without a pool), 4 or 8.
inline ServingConfig deployment_for(int ranks) {
  ServingConfig config;
  config.prefill_instances = 1;
  config.cache_ranks = ranks == 3 ? 0 : 1;
  config.decode_dies = 1;
  if (ranks == 8) config.prefill_dies = 2, config.decode_instances = 2, config.decode_dies = 2;
  return config;
}

inline std::vector<Request> some_requests() {
  // A shared prefix of 40 tokens, then lengths on and off block borders; one with a single output token.
  std::vector<Request> requests(9);
  for (std::size_t i = 0; i < requests.size(); ++i) {
    Request& r = requests[i];
    r.id = 100 + i;
    r.arrival_s = 0.05 * static_cast<double>(i);
    r.max_output = i == 4 ? 1 : static_cast<int>(3 + i);
    for (int t = 0; t < 40; ++t) r.prompt.push_back('a' + t % 20);
    for (std::size_t t = 0; t < 8 * i; ++t) r.prompt.push_back(static_cast<std::int32_t>(32 + (t * (i + 3)) % 90));
  }
  requests.push_back(requests[7]);  // the very same prompt again: all but its last block from the pool
  requests.back().id = 109;
  requests.back().arrival_s = 1.0;
  return requests;
}

inline ServeOptions some_options() {
  ServeOptions options;
  options.serving = deployment_for(world().size());
  options.checkpoint = find_model(default_model);
  options.serving.context_block_tokens = 16;
  options.serving.decode_kv_tokens = 4096;
  options.serving.max_batch_tokens = 64;
  options.pool.capacity.value = 8 << 20;
  options.deadline_s = 60;
  return options;
}

/// The model alone, on this rank: prompt at once, then token by token.
inline std::vector<std::int32_t> generate_alone(moe::Transformer& model, const Request& request) {
  moe::KvCache cache = model.make_cache();
  std::vector<std::int32_t> tokens;
  std::vector<std::int32_t> input = request.prompt;
  while (static_cast<int>(tokens.size()) < request.max_output) {
    const moe::SequenceChunk chunk{&cache, input};
    const moe::StepResult step = model.forward(std::span(&chunk, 1));
    tokens.push_back(moe::sample(step.row(0), request.sampler, request.id, cache.length()));
    input = {tokens.back()};
  }
  return tokens;
}

inline std::uint64_t sum_of(const std::map<std::string, std::uint64_t>& counts) {
  std::uint64_t sum = 0;
  for (const auto& [name, count] : counts) sum += count;
  return sum;
}

/// What holds for every request that was served whole, on rank 0.
inline void check_served(const ServeOutcome& outcome, const std::vector<Request>& requests) {
  if (world().rank() != 0) return;
  CHECK(outcome.requests.size() == requests.size());
  for (std::size_t i = 0; i < outcome.requests.size(); ++i) {
    INFO("request " << i);
    const RequestRecord& record = outcome.requests[i].record;
    CHECK(outcome.requests[i].request->id == requests[i].id);
    CHECK(outcome.requests[i].ended.why == EndReason::length);
    CHECK(record.tokens.size() == static_cast<std::size_t>(requests[i].max_output));
    CHECK(record.hit_tokens + record.computed_tokens == requests[i].prompt_tokens());
    CHECK(parts_of(record).sum() == record.finished - record.arrived);
  }
  CHECK(outcome.pool.hits + sum_of(outcome.pool.miss_reasons) == outcome.pool.lookups);
}

}  // namespace supernode::serving::test
