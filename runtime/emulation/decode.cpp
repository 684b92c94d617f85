#include "runtime/emulation/decode.hpp"

#include <algorithm>
#include <stdexcept>
#include <vector>

namespace supernode::emulation {
namespace {

/// Bytes moved to pick a token from one logit's worth of f32 vocabulary: softmax (three reads, one write), a radix sort
/// of (probability, index) in four passes for top-p, the running sum and the choice.
constexpr double kSamplingBytes = 4 * 4 + 4 * 2 * 8 + 8 + 4;
constexpr double kGreedyBytes = 4;  // drafts take the largest logit

/// Logits of `tokens` tokens by the bf16 head that each die holds whole, and picking a token for each.
/// @param picking_bytes of vector traffic to pick a token, for each word of the vocabulary
Terms head_stage(const Machine& machine, const ModelShape& model, double tokens, double picking_bytes) {
  Terms terms;
  terms.add("head",
            gemm_time(machine, {.m = tokens, .n = model.vocabulary, .k = model.hidden, .operands = ElementType::bf16}));
  terms.add("sampling", vector_time(machine, picking_bytes * tokens * model.vocabulary));
  terms.add("starts", start_time(machine, 3));
  return terms;
}

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

/// Prices one MoE layer.
void price_layer(DecodeResult& r, const Machine& machine, const ModelShape& model, const DecodeSetup& setup) {
  const bool split = r.microbatches == 2;
  const double attention_share = split ? setup.attention_share : 1, moe_share = split ? 1 - setup.attention_share : 1;
  const double part = 1.0 / r.microbatches, tokens = tokens_of(setup) * part, requests = setup.requests_per_die * part;
  r.attention = decode_attention(machine, model, tokens, requests, setup.kv_tokens,
                                 {.matrix = attention_share, .vector = attention_share});
  r.moe = moe_stage(machine, model, setup.layout, setup.load, setup.exchange, tokens, requests * setup.layout.dies,
                    {.matrix = moe_share, .vector = moe_share});
  r.attention_stream = r.attention.total();
  r.moe_stream = r.moe.total();
  r.skew = r.moe.skew;
  // Of two microbatches one computes attention while the other is with the experts: the longer stream is always busy.
  r.layer = split ? 2 * std::max(r.attention_stream, r.moe_stream) : r.attention_stream + r.moe_stream;
}

/// What a run of MoE layers takes beyond `layer` for each: the longer stream waits once for the other one, before the
/// first microbatch has come or behind the last.
ModelTime pipeline_fill(const DecodeResult& r) {
  return r.microbatches == 2 ? std::min(r.attention_stream, r.moe_stream) : ModelTime{};
}

/// What an iteration does beside its MoE layers, on all cores and with the whole batch.
struct Once {
  ModelTime dense_layer;
  ModelTime head;
  ModelTime mtp_join, draft_head;  ///< zero without a speculative token
  ModelTime graph_launches;        ///< zero where they are prepared together and follow each other on the die
};

Once price_once(const Machine& machine, const ModelShape& model, const DecodeSetup& setup) {
  const double tokens = tokens_of(setup);
  Once once;
  once.dense_layer = decode_attention(machine, model, tokens, setup.requests_per_die, setup.kv_tokens).total() +
                     dense_stage(machine, model, tokens).total();
  once.head = head_stage(machine, model, tokens, kSamplingBytes).total();
  if (setup.mtp) {
    // The speculative module joins the token's embedding to the last state; then come one layer and the head again.
    once.mtp_join =
        gemm_time(machine, {.m = tokens, .n = model.hidden, .k = 2 * model.hidden}) + start_time(machine, 2);
    once.draft_head = head_stage(machine, model, setup.requests_per_die, kGreedyBytes).total();
  }
  if (!setup.prepared_graphs) once.graph_launches = {(setup.mtp ? 2 : 1) * machine.die.graph_launch_us * 1e-6};
  return once;
}

/// The terms of the iteration.
Terms parts_of(const DecodeResult& r, const ModelShape& model, const DecodeSetup& setup, const Once& once) {
  Terms parts;
  if (model.dense_layers > 0) parts.add("dense layers", static_cast<double>(model.dense_layers) * once.dense_layer);
  if (moe_layers(model) > 0) {
    parts.add("MoE layers", static_cast<double>(moe_layers(model)) * r.layer);
    if (r.microbatches == 2) parts.add("pipeline fill", pipeline_fill(r));
  }
  parts.add("head, sampling", once.head);
  if (setup.mtp) {
    parts.add("mtp layer", once.mtp_join + r.layer + pipeline_fill(r));
    parts.add("draft head", once.draft_head);
  }
  if (!setup.prepared_graphs) parts.add("graph launches", once.graph_launches);
  return parts;
}

/// Appends a MoE layer. @param ready for each microbatch the task that it waits for, or -1; then the layer's last ones
void schedule_layer(Timeline& line, const DecodeResult& r, std::vector<int>& ready) {
  for (int& last : ready) {
    const int attention =
        line.add("attention", 0, r.attention_stream, last < 0 ? std::vector<int>{} : std::vector{last});
    last = line.add("moe", 1, r.moe_stream, {attention});
  }
}

/// The iteration task by task.
Timeline schedule(const DecodeResult& r, const ModelShape& model, const DecodeSetup& setup, const Once& once) {
  Timeline line({"attention", "moe"});
  // The few dense layers are not split.
  std::vector<int> dense;
  for (int layer = 0; layer < model.dense_layers; ++layer)
    dense = {line.add("dense layer", 0, once.dense_layer, dense)};
  std::vector<int> ready(static_cast<std::size_t>(r.microbatches), dense.empty() ? -1 : dense[0]);
  for (int layer = 0; layer < moe_layers(model); ++layer) schedule_layer(line, r, ready);
  std::erase(ready, -1);
  int last = line.add("head, sampling", 0, once.head, ready);
  if (setup.mtp) {
    last = line.add("mtp join", 0, once.mtp_join, {last});
    ready.assign(static_cast<std::size_t>(r.microbatches), last);
    schedule_layer(line, r, ready);
    last = line.add("draft head", 0, once.draft_head, ready);
  }
  // Else each graph waits for the host in turn.
  if (!setup.prepared_graphs) line.add("graph launches", 0, once.graph_launches, {last});
  return line;
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
  const Once once = price_once(machine, model, setup);
  r.parts = parts_of(r, model, setup, once);
  r.iteration = r.parts.total();
  r.timeline = schedule(r, model, setup, once);
  const double yield = setup.mtp ? 1 + setup.acceptance : 1;
  r.tpot = (1 / yield) * r.iteration;
  if (r.tpot.value > 0) r.tokens_per_s_per_npu = setup.requests_per_die * machine.dies_per_npu / r.tpot.value;
  r.memory_bytes = memory_of(model, setup);
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
  const double flops = 2 * tokens * model.heads * kv_tokens * (model.latent() + model.kv_lora);
  terms.add("attention", attention_time(machine, flops, requests * kv_tokens * model.kv_bytes_per_layer(), share));
  terms.add("absorb v", by_head(model.value, model.kv_lora));
  terms.add("output", gemm_time(machine, {.m = tokens, .n = model.hidden, .k = model.heads * model.value}, share));
  // norm; prolog; attention; value projection; quantisation; output projection.
  terms.add("starts", start_time(machine, 6));
  return terms;
}

DecodeResult decode_iteration(const Machine& machine, const ModelShape& model, const DecodeSetup& setup) {
  if (setup.microbatches < 0 || setup.microbatches > 2) throw std::invalid_argument("microbatches must be 0, 1 or 2");
  setup.layout.check(model);
  if (setup.microbatches > 0) return decode_with(machine, model, setup, setup.microbatches);
  DecodeResult one = decode_with(machine, model, setup, 1), two = decode_with(machine, model, setup, 2);
  return two.iteration < one.iteration ? two : one;
}

}  // namespace supernode::emulation
