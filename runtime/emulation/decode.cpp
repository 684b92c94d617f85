#include "runtime/emulation/decode.hpp"

#include <algorithm>
#include <stdexcept>

namespace supernode::emulation {
namespace {

/// Bytes moved to pick a token from one logit's worth of f32 vocabulary: softmax (three reads, one write), a radix sort
/// of (probability, index) in four passes for top-p, the running sum and the choice.
constexpr double kSamplingBytes = 4 * 4 + 4 * 2 * 8 + 8 + 4;
constexpr double kGreedyBytes = 4;  // drafts take the largest logit

/// Logits of `tokens` tokens by the bf16 head that each die holds whole, and picking a token for each.
Terms head_stage(const Machine& machine, const ModelShape& model, double tokens, bool draft) {
  Terms terms;
  terms.add("head", gemm_time(machine, {1, tokens, model.vocabulary, model.hidden, false}));
  terms.add("sampling", vector_time(machine, (draft ? kGreedyBytes : kSamplingBytes) * tokens * model.vocabulary));
  terms.add("starts", start_time(machine, 3));
  return terms;
}

/// Where time goes in the longer stream of a layer.
std::string limit_of(const DecodeResult& r) {
  const bool attention = r.microbatches == 1 || r.attention_stream >= r.moe_stream;
  std::string name;
  ModelTime most;
  const auto consider = [&](const std::string& what, ModelTime time) {
    if (most < time) {
      most = time;
      name = what;
    }
  };
  if (attention)
    for (const auto& [what, time] : r.attention.parts()) consider(what, time);
  if (!attention || r.microbatches == 1) {
    consider("dispatch", r.moe.dispatch.total());
    consider("experts", r.moe.experts.total());
    consider("combine", r.moe.combine.total());
    consider("gate", r.moe.gate.total());
  }
  return name;
}

DecodeResult run(const Machine& machine, const ModelShape& model, const DecodeSetup& setup, int microbatches) {
  DecodeResult r;
  r.microbatches = microbatches;
  const double tokens = setup.requests_per_die * (setup.mtp ? 2 : 1);
  const bool split = microbatches == 2;
  const CoreShare left = split ? CoreShare{setup.attention_share, setup.attention_share} : CoreShare{};
  const CoreShare right = split ? CoreShare{1 - setup.attention_share, 1 - setup.attention_share} : CoreShare{};
  const double part = 1.0 / microbatches;
  r.attention = decode_attention(machine, model, tokens * part, setup.requests_per_die * part, setup.kv_tokens, left);
  r.moe = moe_stage(machine, model, setup.layout, setup.load, setup.exchange, tokens * part,
                    setup.requests_per_die * part * setup.layout.dies, right);
  r.attention_stream = r.attention.total();
  r.moe_stream = r.moe.total();
  r.skew = r.moe.skew;

  // The few dense layers are not split: all cores, the whole batch.
  Timeline& line = r.timeline;
  const Terms whole = decode_attention(machine, model, tokens, setup.requests_per_die, setup.kv_tokens);
  const ModelTime dense = whole.total() + dense_stage(machine, model, tokens).total();
  std::vector<int> done;
  for (int layer = 0; layer < model.dense_layers; ++layer) done = {line.add("dense layer", 0, dense, done)};
  if (model.dense_layers > 0) r.other.add("dense layers", static_cast<double>(model.dense_layers) * dense);

  std::vector<int> ready(static_cast<std::size_t>(microbatches), done.empty() ? -1 : done[0]);
  std::vector<ModelTime> ends;
  const auto moe_layer = [&] {
    for (std::size_t m = 0; m < ready.size(); ++m) {
      const int a =
          line.add("attention", 0, r.attention_stream, ready[m] < 0 ? std::vector<int>{} : std::vector{ready[m]});
      ready[m] = line.add("moe", 1, r.moe_stream, {a});
    }
    ends.push_back(line.end());
  };
  const int moe_layers = model.layers - model.dense_layers;
  for (int layer = 0; layer < moe_layers; ++layer) moe_layer();
  const std::size_t middle = ends.size() / 2;
  r.layer = ends.size() < 2 ? line.end() : ends[middle] - ends[middle - 1];
  const ModelTime main_layers =
      line.end() - (model.dense_layers > 0 ? line.tasks()[static_cast<std::size_t>(done[0])].end : ModelTime{});
  r.other.add("pipeline fill", main_layers - static_cast<double>(moe_layers) * r.layer);

  const auto pass = [&](const std::string& name, double rows, bool draft) {
    const Terms head = head_stage(machine, model, rows, draft);
    line.add(name, 0, head.total(), ready);
    r.other.add(name, head.total());
  };
  pass("head, sampling", tokens, false);
  int graphs = 1;
  if (setup.mtp) {
    // The speculative module: joins the token's embedding to the last state, one layer, the head again.
    const ModelTime join =
        gemm_time(machine, {1, tokens, model.hidden, 2 * model.hidden, true}) + start_time(machine, 2);
    std::fill(ready.begin(), ready.end(), line.add("mtp join", 0, join));
    const ModelTime before = line.end();
    moe_layer();
    r.other.add("mtp layer", join + (line.end() - before));
    pass("draft head", setup.requests_per_die, true);
    ++graphs;
  }
  // Prepared together they follow each other on the die; else each waits for the host in turn.
  if (!setup.prepared_graphs) {
    const ModelTime launch{graphs * machine.die.graph_launch_us * 1e-6};
    line.add("graph launches", 0, launch, ready);
    r.other.add("graph launches", launch);
  }
  r.iteration = line.end();
  const double yield = setup.mtp ? 1 + setup.acceptance : 1;
  r.tpot = (1 / yield) * r.iteration;
  if (r.tpot.value > 0) r.tokens_per_s_per_npu = setup.requests_per_die * machine.dies_per_npu / r.tpot.value;

  const double dense_bytes = model.dense_layers * 3 * model.hidden * model.dense_ffn;
  const double layers = moe_layers + (setup.mtp ? 1 : 0);
  r.memory_bytes = (model.layers + (setup.mtp ? 1 : 0)) * model.attention_weights() + dense_bytes +
                   layers * setup.layout.weight_bytes(model) + 3 * model.vocabulary * model.hidden +
                   setup.requests_per_die * setup.kv_tokens * model.kv_bytes_per_token();
  const int experts_here = static_cast<int>(std::max(1.0, setup.layout.slots_per_die(model)));
  for (const double message :
       {dispatch_message_bytes(model.hidden, setup.exchange.early_quantisation), combine_message_bytes(model.hidden)})
    r.memory_bytes += exchange_buffer_bytes(setup.layout.dies, tokens, model.topk, experts_here, message);
  r.limit = limit_of(r);
  return r;
}

}  // namespace

Terms decode_attention(const Machine& machine, const ModelShape& model, double tokens, double requests,
                       double kv_tokens, CoreShare share) {
  const double queries = model.heads * (model.nope + model.rope);
  Terms terms;
  terms.add("norm, quantise", vector_time(machine, tokens * model.hidden * (2 + 2 + 1), share));
  if (model.q_lora > 0) {
    terms.add("q and kv down",
              gemm_time(machine, {1, tokens, model.q_lora + model.latent(), model.hidden, true}, share));
    terms.add("q up", gemm_time(machine, {1, tokens, queries, model.q_lora, true}, share));
  } else {
    terms.add("q and kv", gemm_time(machine, {1, tokens, queries + model.latent(), model.hidden, true}, share));
  }
  terms.add("absorb k", gemm_time(machine, {model.heads, tokens, model.kv_lora, model.nope, false}, share));
  const double flops = 2 * tokens * model.heads * kv_tokens * (model.latent() + model.kv_lora);
  terms.add("attention", attention_time(machine, flops, requests * kv_tokens * model.kv_bytes_per_layer(), share));
  terms.add("absorb v", gemm_time(machine, {model.heads, tokens, model.value, model.kv_lora, false}, share));
  terms.add("output", gemm_time(machine, {1, tokens, model.hidden, model.heads * model.value, true}, share));
  // norm; prolog; attention; value projection; quantisation; output projection.
  terms.add("starts", start_time(machine, 6));
  return terms;
}

DecodeResult decode_iteration(const Machine& machine, const ModelShape& model, const DecodeSetup& setup) {
  if (setup.microbatches < 0 || setup.microbatches > 2) throw std::invalid_argument("microbatches must be 0, 1 or 2");
  setup.layout.check(model);
  if (setup.microbatches > 0) return run(machine, model, setup, setup.microbatches);
  DecodeResult one = run(machine, model, setup, 1), two = run(machine, model, setup, 2);
  return two.iteration < one.iteration ? two : one;
}

}  // namespace supernode::emulation
