// Rows about whole stages.
#include <algorithm>
#include <map>

#include "runtime/emulation/published_setup.hpp"
#include "runtime/emulation/validation/published.hpp"
#include "runtime/emulation/validation/row_builder.hpp"

namespace supernode::emulation {
namespace {

std::vector<std::string> explain(const DecodeResult& r) {
  std::vector<std::string> lines = {fmt::format("{} microbatch{}, skew of the busiest expert die {:.2f}, bound by {}",
                                                r.microbatches, r.microbatches > 1 ? "es" : "", r.skew, r.limit),
                                    in_us("attention stream", r.attention_stream)};
  append(lines, "  ", r.attention);
  lines.push_back(in_us("MoE stream", r.moe_stream));
  append(lines, "  gate: ", r.moe.gate);
  append(lines, "  dispatch: ", r.moe.dispatch);
  append(lines, "  experts: ", r.moe.experts);
  append(lines, "  combine: ", r.moe.combine);
  lines.push_back(in_us("a MoE layer", r.layer));
  lines.push_back(in_us("iteration", r.iteration));
  append(lines, "  ", r.parts);
  return lines;
}

std::vector<std::string> explain(const PrefillResult& r) {
  std::vector<std::string> lines = {
      fmt::format("skew of the busiest die {:.2f}, bound by {}; parts of one microbatch and layer:", r.skew, r.limit)};
  for (const Terms* terms : {&r.before_experts, &r.experts, &r.after_experts}) append(lines, "  compute: ", *terms);
  append(lines, "  dispatch: ", r.dispatch);
  append(lines, "  combine: ", r.combine);
  lines.push_back(in_us("a MoE layer", r.layer));
  lines.push_back(in_us("batch", r.batch));
  append(lines, "  ", r.parts);
  return lines;
}

void add_tables(std::vector<ValidationRow>& rows, const ModelShape& model) {
  const PublishedTable prefill = load_published("table3");
  for (std::size_t i = 0; i < prefill.rows(); ++i) {
    PrefillSetup setup = published_prefill(prefill.number(i, "prompt_tokens"));
    setup.tokens_per_die = prefill.number(i, "batch_tokens_per_npu") / 2;
    setup.load = prefill.choice<ExpertLoad>(
        i, "row", {{"cloudmatrix_default", setup.load}, {"cloudmatrix_perfect_eplb", ExpertLoad{}}});
    rows.push_back({"3", prefill.text(i, "row"), "tokens/s/NPU", prefill.number(i, "tokens_per_s_per_npu"),
                    prefill.kind(i), [=](const Machines& m) {
                      const PrefillResult r = prefill_batch(m.cloudmatrix, model, setup);
                      return Modelled{r.tokens_per_s_per_npu, explain(r)};
                    }});
  }
  const auto tpot = [&](const std::string& name, const PublishedTable& table, const std::string& row, std::size_t i,
                        double kv_tokens) {
    const DecodeSetup setup = published_decode(table.number(i, "batch_per_npu"), kv_tokens);
    rows.push_back({name, row, "TPOT ms", table.number(i, "tpot_ms"), table.kind(i), [=](const Machines& m) {
                      const DecodeResult r = decode_iteration(m.cloudmatrix, model, setup);
                      return Modelled{r.tpot.ms(), explain(r)};
                    }});
  };
  const PublishedTable decode = load_published("table4");
  for (std::size_t i = 0; i < decode.rows(); ++i)
    tpot("4", decode, decode.text(i, "row"), i, decode.number(i, "kv_tokens"));
  const PublishedTable slo = load_published("table5");
  for (std::size_t i = 0; i < slo.rows(); ++i) {
    const double prompt = slo.number(i, "prompt_tokens"), output = slo.number(i, "output_tokens");
    // A request's context grows while it decodes; half of its output is its mean.
    tpot("5", slo, fmt::format("{} ms, {}+{}", slo.text(i, "tpot_slo_ms"), prompt, output), i, prompt + output / 2);
  }
}

constexpr double kKv = 4096, kPrompt = 4096;

/// Throughput with over throughput without, for two results.
template <class Result>
Modelled gain(const Result& with, const Result& without) {
  Modelled m{with.tokens_per_s_per_npu / without.tokens_per_s_per_npu, {"with:"}};
  for (const std::string& line : explain(with)) m.parts.push_back("  " + line);
  m.parts.push_back("without:");
  for (const std::string& line : explain(without)) m.parts.push_back("  " + line);
  return m;
}

using Models = std::map<std::string, std::function<Modelled(const Machines&)>>;

void add_decode_text(Models& models, const ModelShape& model) {
  DecodeSetup mtp = published_decode(96, kKv);
  mtp.microbatches = 2;
  DecodeSetup plain = mtp;
  plain.mtp = false;
  const auto time = [=](const DecodeSetup& setup, ModelTime DecodeResult::*member) {
    return [=](const Machines& m) {
      const DecodeResult r = decode_iteration(m.cloudmatrix, model, setup);
      return Modelled{(r.*member).us(), explain(r)};
    };
  };
  models["decode_layer_no_mtp"] = time(plain, &DecodeResult::layer);
  models["decode_layer_mtp"] = time(mtp, &DecodeResult::layer);
  models["decode_stream_attention"] = time(mtp, &DecodeResult::attention_stream);
  models["decode_stream_moe"] = time(mtp, &DecodeResult::moe_stream);
  for (const int batch : {64, 96, 128})
    models[fmt::format("decode_microbatch_gain_{}", batch)] = [=](const Machines& m) {
      DecodeSetup one = published_decode(batch, kKv), two = one;
      one.microbatches = 1;
      two.microbatches = 2;
      return gain(decode_iteration(m.cloudmatrix, model, two), decode_iteration(m.cloudmatrix, model, one));
    };
  // The text gives no batch sizes; these are the largest and smallest of Table 5.
  for (const auto& [name, batch] : {std::pair{"decode_mtp_gain_min", 128.0}, {"decode_mtp_gain_max", 8.0}}) {
    const double size = batch;
    models[name] = [=](const Machines& m) {
      DecodeSetup with = published_decode(size, kKv), without = with;
      without.mtp = false;
      return gain(decode_iteration(m.cloudmatrix, model, with), decode_iteration(m.cloudmatrix, model, without));
    };
  }
  const auto buffer = [](double message) {
    return [=](const Machines&) {
      return Modelled{modelled_buffer_bytes(320, 96, 8, 1, message) / 1048576, {"ranks x tokens x message"}};
    };
  };
  models["dispatch_buffer"] = buffer(dispatch_message_bytes(7168, {}));
  models["combine_buffer"] = buffer(combine_message_bytes(7168));
}

void add_prefill_text(Models& models, const ModelShape& model) {
  const auto run = [=](const Machines& m, double prompt, int microbatches) {
    PrefillSetup setup = published_prefill(prompt);
    setup.microbatches = microbatches;
    return prefill_batch(m.cloudmatrix, model, setup);
  };
  // The text gives the range over several prompt lengths.
  using Better = bool (*)(double, double);
  const auto extreme = [=](Better better) {
    return [=](const Machines& m) {
      Modelled best;
      for (const double prompt : {1024, 2048, 4096, 8192}) {
        const Modelled one = gain(run(m, prompt, 2), run(m, prompt, 1));
        if (best.value == 0 || better(one.value, best.value)) {
          best = one;
          best.parts.insert(best.parts.begin(), fmt::format("prompts of {} tokens", prompt));
        }
      }
      return best;
    };
  };
  models["prefill_microbatch_gain_min"] = extreme([](double one, double best) { return one < best; });
  models["prefill_microbatch_gain_max"] = extreme([](double one, double best) { return one > best; });
  models["prefill_layer_microbatch"] = [=](const Machines& m) {
    const PrefillResult two = run(m, kPrompt, 2), one = run(m, kPrompt, 1);
    Modelled result = gain(two, one);
    result.value = two.layer / one.layer;
    return result;
  };
}

void add_pool_text(Models& models, const ModelShape& model) {
  const auto run = [=](const Machines& m, double reuse, PoolNetwork network) {
    PrefillSetup setup = published_prefill(kPrompt);
    setup.reuse = reuse;
    setup.network = network;
    return prefill_batch(m.cloudmatrix, model, setup);
  };
  const auto ratio = [=](double reuse, double base) {
    return
        [=](const Machines& m) { return gain(run(m, reuse, PoolNetwork::fabric), run(m, base, PoolNetwork::fabric)); };
  };
  models["ems_50_over_12_5"] = ratio(0.5, 0.125);
  models["ems_90_over_none"] = ratio(0.9, 0);
  models["ems_ub_over_vpc"] = [=](const Machines& m) {
    return gain(run(m, 0.9, PoolNetwork::fabric), run(m, 0.9, PoolNetwork::vpc));
  };
  const auto saved = [=](double reuse) {
    return [=](const Machines& m) {
      const PrefillResult none = run(m, 0, PoolNetwork::fabric), with = run(m, reuse, PoolNetwork::fabric);
      return Modelled{(none.batch - with.batch).ms(), explain(with)};
    };
  };
  models["ems_ttft_50"] = saved(0.5);
  models["ems_ttft_90"] = saved(0.9);
}

}  // namespace

void add_serving_rows(std::vector<ValidationRow>& rows, const ModelShape& model) {
  add_tables(rows, model);
  Models models;
  add_decode_text(models, model);
  add_prefill_text(models, model);
  add_pool_text(models, model);
  const PublishedTable text = load_published("text");
  for (std::size_t i = 0; i < text.rows(); ++i) {
    if (text.kind(i) == FigureKind::context) continue;  // the model need not know it
    const auto model_of = models.find(text.text(i, "row"));
    if (model_of == models.end()) throw text.error(i, "row", "is not modelled");
    rows.push_back(
        {"text", text.text(i, "row"), text.text(i, "unit"), text.number(i, "value"), text.kind(i), model_of->second});
  }
}

}  // namespace supernode::emulation
