#include "runtime/emulation/decode.hpp"

#include <algorithm>
#include <stdexcept>
#include <vector>

namespace supernode::emulation {
namespace {

/// Where time goes in the longer stream of a layer.
std::string limit_of(const DecodeResult& r) {
  const bool attention = r.microbatches == 1 || r.attention_stream >= r.moe_stream;
  Terms terms;
  if (attention) terms.add(r.attention);
  if (!attention || r.microbatches == 1) {
    terms.add("dispatch", r.moe.dispatch.total());
    terms.add("experts", r.moe.experts.total());
    terms.add("combine", r.moe.combine.total());
    terms.add("gate", r.moe.gate.total());
  }
  return terms.longest().name;
}

int moe_layers(const ModelShape& model) { return model.layers - model.dense_layers; }
double tokens_of(const DecodeSetup& setup) { return setup.requests_per_die * (setup.mtp ? 2 : 1); }

/// A part of the die's batch; every context is the mean one.
AttentionWork work_of(const DecodeSetup& setup, double part) {
  const double requests = setup.requests_per_die * part, tokens = tokens_of(setup) * part;
  return {.sequences = requests,
          .tokens = tokens,
          .context = requests * setup.kv_tokens,
          .attended = tokens * setup.kv_tokens};
}

/// Prices one MoE layer.
void price_layer(DecodeResult& r, const Machine& machine, const ModelShape& model, const DecodeSetup& setup) {
  const bool split = r.microbatches == 2;
  const double attention_share = split ? setup.attention_share : 1, moe_share = split ? 1 - setup.attention_share : 1;
  const double part = 1.0 / r.microbatches, tokens = tokens_of(setup) * part, requests = setup.requests_per_die * part;
  r.attention =
      decode_attention(machine, model, work_of(setup, part), {.matrix = attention_share, .vector = attention_share});
  r.moe = moe_stage(machine, model, setup.layout, setup.load, setup.exchange, tokens, requests * setup.layout.dies,
                    {.matrix = moe_share, .vector = moe_share});
  r.attention_stream = r.attention.total();
  r.moe_stream = r.moe.total();
  r.skew = r.moe.skew;
  // Of two microbatches one computes attention while the other is with the experts: the longer stream is always busy.
  r.layer = split ? 2 * std::max(r.attention_stream, r.moe_stream) : r.attention_stream + r.moe_stream;
}

double memory_of(const ModelShape& model, const DecodeSetup& setup) {
  const int draft_layers = setup.mtp ? 1 : 0;
  const double dense_bytes = model.dense_layers * 3 * model.hidden * model.dense_ffn;
  double bytes = (model.layers + draft_layers) * model.attention_weights() + dense_bytes +
                 (moe_layers(model) + draft_layers) * setup.layout.weight_bytes(model) +
                 3 * model.vocabulary * model.hidden +
                 setup.requests_per_die * setup.kv_tokens * model.kv_bytes_per_token();
  for (const double message :
       {dispatch_message_bytes(model.hidden, setup.exchange), combine_message_bytes(model.hidden)})
    bytes += modelled_buffer_bytes(setup.layout.dies, tokens_of(setup), model.topk,
                                   setup.layout.whole_slots_per_die(model), message);
  return bytes;
}

DecodeResult decode_with(const Machine& machine, const ModelShape& model, const DecodeSetup& setup, int microbatches) {
  DecodeResult r;
  r.microbatches = microbatches;
  price_layer(r, machine, model, setup);
  const StepSetup step_setup{.stage = Stage::decode,
                             .layout = setup.layout,
                             .exchange = setup.exchange,
                             .mtp = setup.mtp,
                             .prepared_graphs = setup.prepared_graphs,
                             .attention_share = setup.attention_share};
  const MicrobatchStep microbatch{.work = work_of(setup, 1.0 / microbatches)};
  DieStep step;
  step.microbatches.assign(static_cast<std::size_t>(microbatches), microbatch);
  const StepTiming timing = uniform_step_time(machine, model, step_setup, setup.load, step, &r.timeline);
  r.parts = timing.terms;
  r.iteration = timing.end();
  const double yield = setup.mtp ? 1 + setup.acceptance : 1;
  r.tpot = (1 / yield) * r.iteration;
  if (r.tpot.value > 0) r.tokens_per_s_per_npu = setup.requests_per_die * machine.dies_per_npu / r.tpot.value;
  r.memory_bytes = memory_of(model, setup);
  r.limit = limit_of(r);
  return r;
}

}  // namespace

DecodeResult decode_iteration(const Machine& machine, const ModelShape& model, const DecodeSetup& setup) {
  if (setup.microbatches < 0 || setup.microbatches > 2) throw std::invalid_argument("microbatches must be 0, 1 or 2");
  setup.layout.check(model);
  if (setup.microbatches > 0) return decode_with(machine, model, setup, setup.microbatches);
  DecodeResult one = decode_with(machine, model, setup, 1), two = decode_with(machine, model, setup, 2);
  return two.iteration < one.iteration ? two : one;
}

}  // namespace supernode::emulation
