#include "launch/modelled_options.hpp"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "moe/model_shape.hpp"
#include "moe/sequence_state.hpp"
#include "runtime/core/error.hpp"
#include "runtime/emulation/decode.hpp"
#include "runtime/emulation/prefill.hpp"

namespace supernode::launch {

void ModelledOptions::describe(OptionTable& t) {
  t.add("serve", "machine", machine_, "clock: wall, or a machine file or name in configs/machines for a modelled one");
  t.add("serve", "compute", compute_,
        "real: the model computes every token; shape: nothing is computed, routing and tokens are drawn (with a "
        "machine)")
      .choices({"real", "shape"});
  t.add("serve", "payload", payload_,
        "carried: all bytes move, with --compute shape as many as the modelled machine's (exchange, KV, pool), and "
        "results have the wall time beside the modelled; elided: messages without them (with --compute shape); auto: "
        "carried where a model computes")
      .choices({"auto", "carried", "elided"});
  t.add("serve", "workload", workload_,
        "trace, generated (drawn lengths and shared prefixes), or a closed loop that keeps instances full: steady "
        "(decode) or steady-prefill (with --compute shape)")
      .choices({"trace", "generated", "steady", "steady-prefill"});
  t.add("serve", "batch_per_npu", batch_per_npu_, "steady: requests of an NPU at a time").range(1e-3, 1e6);
  t.add("serve", "prompt_tokens", prompt_tokens_, "steady: tokens of a prompt").range(1, 1 << 24);
  t.add("serve", "output_tokens", output_tokens_,
        "steady: tokens of an answer; contexts spread over prompt to prompt + output")
      .range(2, 1 << 24);
  t.add("serve", "steps", steps_, "steady: iterations or batches of an instance; the middle half is measured")
      .range(4, 1e6);
  serving::describe(t, config_);
}

std::optional<serving::ModelledRun> ModelledOptions::make(serving::ServingConfig& serving,
                                                          const moe::ModelConfig& model, const std::string& dtype,
                                                          std::uint64_t seed) const {
  if (!chosen()) {
    if (compute_ == "shape") throw UsageError("--compute shape needs --machine: nothing is computed on the wall clock");
    if (payload_ == "elided") throw UsageError("--payload elided needs --compute shape");
    if (steady()) throw UsageError("--workload steady needs --machine and --compute shape");
    return std::nullopt;
  }
  serving::ModelledRun run;
  run.machine = emulation::load_machine(machine_);
  run.model = moe::shape_of(model);
  // Of what decides a block's content, wherever the files lie: keys, and so owners, must not depend on a path.
  run.model_name = fmt::format("modelled/{}x{}/{}/{}/{}/{}", model.n_layers, model.hidden_size, model.kv_lora_rank,
                               model.n_routed_experts, model.vocab_size, dtype);
  run.vocabulary = model.vocab_size;
  run.seed = seed;
  run.config = config_;
  run.compute = compute_ == "shape" ? serving::Compute::shape : serving::Compute::real;
  if (run.compute == serving::Compute::shape) {
    if (serving.speculates()) throw UsageError("serving.mtp: with --compute shape it is modelled.mtp");
    if (serving.microbatches > 1)
      throw UsageError("serving.microbatches: with --compute shape it is modelled.microbatches");
    run.payload = payload_ == "carried" ? serving::Payload::carried : serving::Payload::elided;
    run.bytes_per_token = static_cast<std::size_t>(run.model.kv_bytes_per_token());
    if (config_.experts > 0) {
      if (config_.experts < run.model.topk)
        throw UsageError(fmt::format("modelled.experts: {}, but a token chooses {}", config_.experts, run.model.topk));
      run.model.experts = config_.experts;
    }
    static_cast<void>(serving::expert_load(config_, run.model.experts));  // names a file that is wrong
  } else {
    if (payload_ == "elided") throw UsageError("--payload elided needs --compute shape");
    if (steady()) throw UsageError("--workload steady needs --compute shape");
    run.config.microbatches = serving.microbatches;
    run.config.mtp = serving.speculates();
    run.config.decode_shared_dies = run.config.decode_redundant = run.config.prefill_redundant = 0;
    const auto draft = serving.speculates() ? moe::DraftCache::included : moe::DraftCache::none;
    run.payload = serving::Payload::carried;
    run.bytes_per_token = moe::state_bytes_per_token(model, draft);
    run.end_bytes = moe::state_end_bytes(model, draft);
    // Blocks with and without the module's part never meet.
    if (serving.speculates()) run.model_name += "/" + moe::state_format(model, draft);
  }
  serving::check_deployment(run.config, serving, run.machine, run.model);
  if (steady()) run.steady = steady_options(run.machine, serving);
  if (run.steady) run.steady->vocabulary = run.vocabulary;
  return run;
}

double ModelledOptions::formula_step_ms(const serving::ModelledRun& run, const serving::ServingConfig& serving,
                                        double requests_per_die) {
  const bool decode = run.steady->stage == serving::SteadyOptions::Stage::decode;
  const emulation::StepSetup step =
      serving::step_setup(run.config, serving, decode ? emulation::Stage::decode : emulation::Stage::prefill);
  if (decode) {
    emulation::DecodeSetup setup;
    setup.layout = step.layout;
    setup.load = serving::expert_load(run.config, run.model.experts);
    setup.requests_per_die = requests_per_die;
    setup.kv_tokens = run.steady->prompt_tokens + run.steady->output_tokens / 2.0;
    setup.mtp = run.config.mtp;
    setup.acceptance = run.config.acceptance;
    setup.microbatches = run.config.microbatches;
    return emulation::decode_iteration(run.machine, run.model, setup).iteration.ms();
  }
  emulation::PrefillSetup setup;
  setup.layout = step.layout;
  setup.load = serving::expert_load(run.config, run.model.experts);
  setup.tokens_per_die = 1.0 * run.steady->requests * run.steady->prompt_tokens;
  setup.prompt_tokens = run.steady->prompt_tokens;
  setup.microbatches = run.config.microbatches == 0 ? 2 : run.config.microbatches;
  setup.reuse = std::min(run.steady->prefix_share, 0.999);
  setup.pooled = serving.cache_ranks > 0 && serving.context_cache;
  setup.network = step.network;
  setup.block_tokens = serving.context_block_tokens;
  return emulation::prefill_batch(run.machine, run.model, setup).batch.ms();
}

serving::SteadyOptions ModelledOptions::steady_options(const emulation::Machine& machine,
                                                       serving::ServingConfig& serving) const {
  serving::SteadyOptions steady;
  steady.stage = workload_ == "steady" ? serving::SteadyOptions::Stage::decode : serving::SteadyOptions::Stage::prefill;
  const double each = batch_per_npu_ / machine.dies_per_npu;
  steady.requests = static_cast<int>(std::lround(each));
  if (steady.requests < 1 || std::abs(each - steady.requests) > 1e-9)
    throw UsageError(fmt::format("--batch-per-npu: {} requests do not divide over the {} dies of an NPU",
                                 batch_per_npu_, machine.dies_per_npu));
  steady.prompt_tokens = prompt_tokens_;
  steady.output_tokens = output_tokens_;
  steady.steps = steps_;
  const double context =
      steady.stage == serving::SteadyOptions::Stage::decode ? prompt_tokens_ + output_tokens_ : prompt_tokens_ + 1.0;
  const double by_die = std::floor(serving.decode_kv_tokens / context);
  if (steady.stage == serving::SteadyOptions::Stage::decode) {
    if (steady.requests > by_die)
      throw UsageError(fmt::format("a decode die needs room for {} tokens, serving.decode_kv_tokens is {}",
                                   context * steady.requests, serving.decode_kv_tokens));
    // What ends is replaced in the same moment by one that waits; no more than the batch is ever running.
    serving.max_decode_batch = steady.requests;
    return steady;
  }
  const double batch = 1.0 * serving.prefill_dies * steady.requests * prompt_tokens_;
  constexpr double most = 1e9;
  if (batch > most)
    throw UsageError(
        fmt::format("--batch-per-npu: a prefill batch of {} tokens; at most {} are possible", batch, most));
  // A batch is exactly what was asked for. Its requests need a place to decode for as long as they are prefilled.
  serving.max_prefill_tokens = static_cast<int>(batch);
  const double places =
      std::min<double>(by_die, serving.max_decode_batch) * serving.decode_instances * serving.decode_dies;
  const double wanted = 1.0 * serving.prefill_instances * serving.prefill_dies * steady.requests;
  if (wanted > places)
    throw UsageError(
        fmt::format("--batch-per-npu: {} requests in prefill, but the decode dies have places for {}: see "
                    "serving.decode_kv_tokens and serving.max_decode_batch",
                    wanted, places));
  return steady;
}

}  // namespace supernode::launch
