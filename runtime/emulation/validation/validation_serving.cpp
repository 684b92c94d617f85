// Rows about whole stages.
#include <algorithm>
#include <map>

#include "runtime/emulation/published_setup.hpp"
#include "runtime/emulation/validation/published.hpp"
#include "runtime/emulation/validation/validation_internal.hpp"

namespace supernode::emulation::internal {
namespace {

std::vector<std::string> explain(const DecodeResult& r) {
  std::vector<std::string> lines = {fmt::format("{} microbatch{}, skew of the busiest expert die {:.2f}, bound by {}",
                                                r.microbatches, r.microbatches > 1 ? "es" : "", r.skew, r.limit),
                                    in_us("attention stream", r.attention_stream)};
  append(lines, "  ", r.attention);
  lines.push_back(in_us("MoE stream", r.moe_stream));
  append(lines, "  gate: ", r.moe.gate);
  append(lines, "  ", r.moe.dispatch);
  append(lines, "  experts: ", r.moe.experts);
  append(lines, "  ", r.moe.combine);
  lines.push_back(in_us("a MoE layer", r.layer));
  append(lines, "once: ", r.other);
  lines.push_back(in_us("iteration", r.iteration));
  return lines;
}

std::vector<std::string> explain(const PrefillResult& r) {
  std::vector<std::string> lines = {
      fmt::format("skew of the busiest die {:.2f}, bound by {}; parts of one microbatch and layer:", r.skew, r.limit)};
  append(lines, "  compute: ", r.computing);
  append(lines, "  exchange: ", r.exchanging);
  lines.push_back(in_us("a MoE layer", r.layer));
  lines.push_back(in_us("loading from the pool", r.pool));
  lines.push_back(in_us("batch", r.batch));
  return lines;
}

void add_tables(std::vector<Row>& rows, const ModelShape& model) {
  const PublishedTable prefill = load_published("table3");
  for (std::size_t i = 0; i < prefill.rows(); ++i) {
    const bool perfect = prefill.text(i, "row") == "cloudmatrix_perfect_eplb";
    PrefillSetup setup = published_prefill(prefill.number(i, "prompt_tokens"));
    setup.tokens_per_die = prefill.number(i, "batch_tokens_per_npu") / 2;
    if (perfect) setup.load = {};
    rows.push_back({"3", prefill.text(i, "row"), "tokens/s/NPU", prefill.number(i, "tokens_per_s_per_npu"), !perfect,
                    [=](const Machines& m) {
                      const PrefillResult r = prefill_batch(m.cloudmatrix, model, setup);
                      return Modelled{r.tokens_per_s_per_npu, explain(r)};
                    }});
  }
  const auto tpot = [&](const std::string& table, const std::string& name, double batch, double kv, double published) {
    const DecodeSetup setup = published_decode(batch, kv);
    rows.push_back({table, name, "TPOT ms", published, false, [=](const Machines& m) {
                      const DecodeResult r = decode_iteration(m.cloudmatrix, model, setup);
                      return Modelled{r.tpot.ms(), explain(r)};
                    }});
  };
  const PublishedTable decode = load_published("table4");
  for (std::size_t i = 0; i < decode.rows(); ++i)
    tpot("4", decode.text(i, "row"), decode.number(i, "batch_per_npu"), decode.number(i, "kv_tokens"),
         decode.number(i, "tpot_ms"));
  const PublishedTable slo = load_published("table5");
  for (std::size_t i = 0; i < slo.rows(); ++i) {
    const double prompt = slo.number(i, "prompt_tokens"), output = slo.number(i, "output_tokens");
    // A request's context grows while it decodes; half of its output is its mean.
    tpot("5", fmt::format("{} ms, {}+{}", slo.text(i, "tpot_slo_ms"), prompt, output), slo.number(i, "batch_per_npu"),
         prompt + output / 2, slo.number(i, "tpot_ms"));
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
  const auto layer = [=](bool mtp) {
    return [=](const Machines& m) {
      DecodeSetup setup = published_decode(96, kKv);
      setup.mtp = mtp;
      setup.microbatches = 2;
      return decode_iteration(m.cloudmatrix, model, setup);
    };
  };
  const auto with = layer(true), without = layer(false);
  models["decode_layer_no_mtp"] = [=](const Machines& m) {
    const DecodeResult r = without(m);
    return Modelled{r.layer.us(), explain(r)};
  };
  models["decode_layer_mtp"] = [=](const Machines& m) {
    const DecodeResult r = with(m);
    return Modelled{r.layer.us(), explain(r)};
  };
  models["decode_stream_attention"] = [=](const Machines& m) {
    const DecodeResult r = with(m);
    return Modelled{r.attention_stream.us(), explain(r)};
  };
  models["decode_stream_moe"] = [=](const Machines& m) {
    const DecodeResult r = with(m);
    return Modelled{r.moe_stream.us(), explain(r)};
  };
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
      DecodeSetup setup = published_decode(size, kKv), plain = setup;
      plain.mtp = false;
      return gain(decode_iteration(m.cloudmatrix, model, setup), decode_iteration(m.cloudmatrix, model, plain));
    };
  }
  const auto buffer = [](double message) {
    return [=](const Machines&) {
      return Modelled{exchange_buffer_bytes(320, 96, 8, 1, message) / 1048576, {"ranks x tokens x message"}};
    };
  };
  models["dispatch_buffer"] = buffer(dispatch_message_bytes(7168, true));
  models["combine_buffer"] = buffer(combine_message_bytes(7168));
}

void add_prefill_text(Models& models, const ModelShape& model) {
  const auto run = [=](const Machines& m, double prompt, int microbatches) {
    PrefillSetup setup = published_prefill(prompt);
    setup.microbatches = microbatches;
    return prefill_batch(m.cloudmatrix, model, setup);
  };
  const auto extreme = [=](bool smallest) {
    return [=](const Machines& m) {
      Modelled best;
      for (const double prompt : {1024, 2048, 4096, 8192}) {
        const Modelled one = gain(run(m, prompt, 2), run(m, prompt, 1));
        if (best.value == 0 || (one.value < best.value) == smallest) {
          best = one;
          best.parts.insert(best.parts.begin(), fmt::format("prompts of {} tokens", prompt));
        }
      }
      return best;
    };
  };
  models["prefill_microbatch_gain_min"] = extreme(true);
  models["prefill_microbatch_gain_max"] = extreme(false);
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

void add_serving_rows(std::vector<Row>& rows, const ModelShape& model) {
  add_tables(rows, model);
  Models models;
  add_decode_text(models, model);
  add_prefill_text(models, model);
  add_pool_text(models, model);
  const PublishedTable text = load_published("text");
  for (std::size_t i = 0; i < text.rows(); ++i) {
    const std::string name = text.text(i, "row");
    const bool fit = name == "decode_layer_no_mtp" || name == "ems_ttft_90" || name == "ems_ub_over_vpc";
    rows.push_back({"text", name, text.text(i, "unit"), text.number(i, "value"), fit, models.at(name)});
  }
}

}  // namespace supernode::emulation::internal
