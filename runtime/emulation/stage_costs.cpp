#include "runtime/emulation/stage_costs.hpp"

#include "runtime/emulation/machine/links.hpp"

namespace supernode::emulation {
namespace {

/// Bytes moved to pick a token from one logit's worth of f32 vocabulary: softmax (three reads, one write), a radix sort
/// of (probability, index) in four passes for top-p, the running sum and the choice.
constexpr double kSamplingBytes = 4 * 4 + 4 * 2 * 8 + 8 + 4;
constexpr double kGreedyBytes = 4;

/// All dies of the instance send each other equal shares: a bulk transfer by the copy engine at the link's write rate.
ModelTime collective(const Machine& machine, int dies, double bytes_sent) {
  if (dies < 2) return {};
  return link_time(machine, Access::write, Memory::die, dies > machine.dies_per_node() ? 2 : 1, bytes_sent).total();
}

}  // namespace

Terms decode_attention(const Machine& machine, const ModelShape& model, const AttentionWork& work, CoreShare share) {
  const double queries = model.heads * (model.nope + model.rope), tokens = work.tokens;
  Terms terms;
  terms.add("norm, quantise", vector_time(machine, tokens * model.hidden * (2 + 2 + 1), share));
  if (model.q_lora > 0) {
    terms.add("q and kv down",
              gemm_time(machine, {.m = tokens, .n = model.q_lora + model.latent(), .k = model.hidden}, share));
    terms.add("q up", gemm_time(machine, {.m = tokens, .n = queries, .k = model.q_lora}, share));
  } else {
    terms.add("q and kv", gemm_time(machine, {.m = tokens, .n = queries + model.latent(), .k = model.hidden}, share));
  }
  const auto by_head = [&](double n, double k) {
    return gemm_time(machine, {.groups = model.heads, .m = tokens, .n = n, .k = k, .operands = ElementType::bf16},
                     share);
  };
  terms.add("absorb k", by_head(model.kv_lora, model.nope));
  const double flops = 2 * work.attended * model.heads * (model.latent() + model.kv_lora);
  terms.add("attention", attention_time(machine, flops, work.context * model.kv_bytes_per_layer(), share));
  terms.add("absorb v", by_head(model.value, model.kv_lora));
  terms.add("output", gemm_time(machine, {.m = tokens, .n = model.hidden, .k = model.heads * model.value}, share));
  // norm; prolog; attention; value projection; quantisation; output projection.
  terms.add("starts", start_time(machine, 6));
  return terms;
}

Terms decode_head(const Machine& machine, const ModelShape& model, double tokens, Picking picking) {
  const double picking_bytes = picking == Picking::sample ? kSamplingBytes : kGreedyBytes;
  Terms terms;
  terms.add("head",
            gemm_time(machine, {.m = tokens, .n = model.vocabulary, .k = model.hidden, .operands = ElementType::bf16}));
  terms.add("sampling", vector_time(machine, picking_bytes * tokens * model.vocabulary));
  terms.add("starts", start_time(machine, 3));
  return terms;
}

ModelTime draft_join(const Machine& machine, const ModelShape& model, double tokens) {
  return gemm_time(machine, {.m = tokens, .n = model.hidden, .k = 2 * model.hidden}) + start_time(machine, 2);
}

PrefillAttention prefill_attention(const Machine& machine, const ModelShape& model, int dies, const AttentionWork& work,
                                   const AttentionWork& mean, const AttentionWork& most) {
  const double queries = model.heads * (model.nope + model.rope), values = model.heads * model.value;
  const double keys_values = model.heads * (model.nope + model.value);
  const double q_input = model.q_lora > 0 ? model.q_lora : model.hidden;
  PrefillAttention parts;
  const auto vector = [&](Terms& t, const char* name, double elements) {
    t.add(name, vector_time(machine, 2 * elements));
  };
  const auto product = [&](Terms& t, const char* name, double rows, double n, double k) {
    t.add(name, gemm_time(machine, {.m = rows, .n = n, .k = k}));
  };
  vector(parts.before, "norm, quantise", work.tokens * model.hidden * 2.5);
  const double down = (model.q_lora > 0 ? model.q_lora : 0) + model.latent();
  product(parts.before, "down projections", work.tokens, down, model.hidden);
  vector(parts.before, "norm latents, rope", 2 * work.tokens * down);
  // Each die needs the latents of every token for its own heads; reused ones were loaded in shares too.
  const double latents = most.tokens * q_input + most.context * model.latent();
  parts.between.add("all-gather", collective(machine, dies, 2 * latents * (dies - 1)));
  product(parts.between, "q up", mean.tokens, queries, q_input);
  product(parts.between, "kv up", mean.context, keys_values, model.kv_lora);
  vector(parts.between, "rope, join heads",
         mean.tokens * queries * 2 + mean.context * (keys_values * 2 + queries - model.heads * model.nope));
  parts.between.add("attention", attention_time(machine, 2 * mean.attended * (queries + values),
                                                2 * mean.context * (queries + values) / model.heads));
  vector(parts.between, "quantise, pack heads", mean.tokens * values * (1 + 0.5 + 1 + 1));
  parts.between.add("all-to-all", collective(machine, dies, 2 * most.tokens * values * (dies - 1) / dies));
  product(parts.after, "output", work.tokens, model.hidden, values);
  vector(parts.after, "residual", work.tokens * model.hidden * 3);
  parts.after.add("starts", start_time(machine, 12));
  return parts;
}

ModelTime prepare_rows(const Machine& machine, const ModelShape& model, double rows) {
  return vector_time(machine, rows * 2 * model.hidden);
}

ModelTime arrange_rows(const Machine& machine, const ModelShape& model, double rows) {
  return vector_time(machine, rows * (2 + 4) * model.hidden);
}

ModelTime sum_rows(const Machine& machine, const ModelShape& model, double tokens) {
  return vector_time(machine, (tokens * model.topk + 2 * tokens) * 2 * model.hidden);
}

}  // namespace supernode::emulation
