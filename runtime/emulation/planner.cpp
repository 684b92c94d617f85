#include "runtime/emulation/planner.hpp"

#include <algorithm>
#include <cmath>
#include <optional>

#include <fmt/format.h>

#include "runtime/emulation/machine/links.hpp"
#include "runtime/emulation/published_setup.hpp"

namespace supernode::emulation {
namespace {

constexpr int kMostRequests = 1024;  // a die

/// The layout with that many redundant experts, if slots divide over the dies: above one expert a die, what is left are
/// dies for the shared experts.
std::optional<ExpertLayout> given_layout(const ModelShape& model, int dies, int copies) {
  const int slots = model.experts + copies;
  const bool spread = dies > model.experts;
  const int shared = spread ? dies - slots : 0;
  const bool fits = shared >= 0 && slots % (dies - shared) == 0 && (!spread || shared > 0);
  return fits ? std::optional(ExpertLayout{dies, shared, copies}) : std::nullopt;
}

/// The layout without redundant experts: dies beyond one expert a die hold the shared experts.
std::optional<ExpertLayout> plain_layout(const ModelShape& model, int dies) {
  if (dies > model.experts) return ExpertLayout{dies, dies - model.experts, 0};
  return model.experts % dies == 0 ? std::optional(ExpertLayout{dies, 0, 0}) : std::nullopt;
}

/// The layout with as many redundant experts as suit: above one expert a die, dies for the shared experts and copies on
/// the rest; below, the shared experts on every die and the slots filled up with copies.
ExpertLayout balanced_layout(const ModelShape& model, int dies) {
  if (dies > model.experts) {
    // A shared-expert die should see about as many rows as a routed one: topk of them for each shared one.
    int shared =
        model.shared_experts > 0 ? std::max(1, static_cast<int>(std::lround(1.0 * dies / (model.topk + 2)))) : 0;
    if (dies - shared < model.experts) shared = dies - model.experts;
    return {dies, shared, dies - shared - model.experts};
  }
  const int per_die = (model.experts + dies - 1) / dies;
  const int exact = per_die * dies - model.experts;
  return {dies, 0, exact > 0 ? exact : dies};
}

/// @param copies redundant experts; below 0: as many as suit. None where they do not divide over the dies.
std::optional<ExpertLayout> layout_for(const ModelShape& model, int dies, const Optimisations& use, int copies) {
  if (copies >= 0) return given_layout(model, dies, copies);
  return use.rebalancing ? std::optional(balanced_layout(model, dies)) : plain_layout(model, dies);
}

DecodeSetup decode_setup(const Workload& workload, const ExpertLayout& layout, const Optimisations& use) {
  DecodeSetup setup;
  setup.layout = layout;
  setup.load = workload.load;
  setup.exchange = {.early_quantisation = use.early_quantisation, .direct_writes = use.direct_writes};
  setup.kv_tokens = workload.prompt_tokens + workload.output_tokens / 2;
  setup.mtp = use.mtp;
  setup.acceptance = workload.acceptance;
  setup.microbatches = use.microbatches ? 0 : 1;
  return setup;
}

PrefillSetup prefill_setup(const Workload& workload, const ExpertLayout& layout, const Optimisations& use,
                           double tokens_per_die) {
  PrefillSetup setup;
  setup.layout = layout;
  setup.load = workload.load;
  setup.exchange = {.early_quantisation = use.early_quantisation, .direct_writes = use.direct_writes};
  setup.prompt_tokens = workload.prompt_tokens;
  setup.tokens_per_die = tokens_per_die;
  setup.reuse = workload.reuse;
  setup.pooled = use.pool;
  setup.microbatches = use.microbatches ? 2 : 1;
  return setup;
}

/// The layout of a given deployment without redundant copies, if there is one.
ExpertLayout without_copies(const ModelShape& model, const ExpertLayout& layout) {
  return plain_layout(model, layout.dies).value_or(layout);
}

std::string describe_limit(const Deployment& d) {
  if (d.requests_per_s == d.pool_requests_per_s) return "pool: links of the host processors";
  if (d.requests_per_s == d.prefill_requests_per_s) return "prefill: " + d.prefill_result.limit;
  return "decode: " + d.decode_result.limit;
}

/// What becomes of the decode batch when optimisations change.
enum class Batch { kept, chosen_anew };

/// The same sizes with other optimisations.
Deployment rebuilt(const Machine& machine, const ModelShape& model, const Workload& workload,
                   const Objectives& objectives, const Deployment& like, const Optimisations& use, Batch batch) {
  Deployment d;
  d.prefill_instances = like.prefill_instances;
  d.decode_instances = like.decode_instances;
  const auto layout = [&](const ExpertLayout& l) { return use.rebalancing ? l : without_copies(model, l); };
  d.prefill = prefill_setup(workload, layout(like.prefill.layout), use, like.prefill.tokens_per_die);
  d.decode = decode_setup(workload, layout(like.decode.layout), use);
  d.decode.requests_per_die = batch == Batch::kept
                                  ? like.decode.requests_per_die
                                  : std::max(1, largest_batch(machine, model, d.decode, objectives.tpot_ms));
  evaluate(machine, model, workload, objectives, d);
  return d;
}

/// For each size of an instance the largest batch in the objective, or the fixed one.
std::vector<DecodeSetup> decode_choices(const Machine& machine, const ModelShape& model, const Workload& workload,
                                        const Objectives& objectives, const Optimisations& use,
                                        const GivenSizes& given) {
  const int most = std::min(objectives.npus * machine.dies_per_npu, machine.dies());
  std::vector<int> sizes;
  for (int size = 16; size <= most; size += size < 64 ? 16 : 32) sizes.push_back(size);
  if (given.decode_npus > 0) sizes = {given.decode_npus * machine.dies_per_npu};
  std::vector<DecodeSetup> choices;
  for (const int size : sizes) {
    const auto layout = layout_for(model, size, use, given.decode_copies);
    if (!layout) continue;
    DecodeSetup setup = decode_setup(workload, *layout, use);
    setup.requests_per_die = given.batch_per_npu / machine.dies_per_npu;
    if (given.batch_per_npu > 0) {
      const DecodeResult r = decode_iteration(machine, model, setup);
      if (r.memory_bytes > machine.die.memory_gb * 1e9) continue;
    } else {
      setup.requests_per_die = largest_batch(machine, model, setup, objectives.tpot_ms);
    }
    if (setup.requests_per_die > 0) choices.push_back(setup);
  }
  return choices;
}

/// For each size of an instance the batch with the most tokens a second in the objective, or the fixed one.
std::vector<PrefillSetup> prefill_choices(const Machine& machine, const ModelShape& model, const Workload& workload,
                                          const Objectives& objectives, const Optimisations& use,
                                          const GivenSizes& given) {
  const int most = std::min({objectives.npus * machine.dies_per_npu, machine.dies(), 256});
  std::vector<int> sizes;
  for (int size = 16; size <= most; size *= 2) sizes.push_back(size);
  if (given.prefill_npus > 0) sizes = {given.prefill_npus * machine.dies_per_npu};
  std::vector<double> batches;
  for (double tokens = 1024; tokens <= 32768; tokens *= 2) batches.push_back(tokens);
  const bool batch_given = given.prefill_tokens_per_npu > 0;
  if (batch_given) batches = {given.prefill_tokens_per_npu / machine.dies_per_npu};
  std::vector<PrefillSetup> choices;
  for (const int size : sizes) {
    const auto layout = layout_for(model, size, use, given.prefill_copies);
    if (!layout) continue;
    std::optional<PrefillSetup> best;
    double rate = 0;
    for (const double tokens : batches) {
      const PrefillSetup setup = prefill_setup(workload, *layout, use, tokens);
      if (tokens * size < workload.prompt_tokens) continue;  // less than one prompt
      const PrefillResult r = prefill_batch(machine, model, setup);
      const bool late = !batch_given && (r.batch + r.handover).ms() > objectives.ttft_ms;
      if (late || r.memory_bytes > machine.die.memory_gb * 1e9) continue;
      if (r.tokens_per_s_per_npu > rate) {
        rate = r.tokens_per_s_per_npu;
        best = setup;
      }
    }
    if (best) choices.push_back(*best);
  }
  return choices;
}

}  // namespace

int largest_batch(const Machine& machine, const ModelShape& model, DecodeSetup setup, double tpot_ms) {
  const auto good = [&](int requests) {
    setup.requests_per_die = requests;
    const DecodeResult r = decode_iteration(machine, model, setup);
    return r.tpot.ms() <= tpot_ms && r.memory_bytes <= machine.die.memory_gb * 1e9;
  };
  int low = 0, high = kMostRequests + 1;  // good(low), not good(high)
  while (high - low > 1) {
    const int middle = low + (high - low) / 2;
    (good(middle) ? low : high) = middle;
  }
  return low;
}

void evaluate(const Machine& machine, const ModelShape& model, const Workload& workload, const Objectives& objectives,
              Deployment& d) {
  d.prefill_result = prefill_batch(machine, model, d.prefill);
  d.decode_result = decode_iteration(machine, model, d.decode);
  const int prefill_npus = d.prefill_instances * d.prefill_npus(machine);
  const int decode_npus = d.decode_instances * d.decode_npus(machine);
  d.npus = prefill_npus + decode_npus;
  d.ttft = d.prefill_result.batch + d.prefill_result.handover;
  d.prefill_requests_per_s = prefill_npus * d.prefill_result.tokens_per_s_per_npu / workload.prompt_tokens;
  d.decode_requests_per_s = decode_npus * d.decode_result.tokens_per_s_per_npu / workload.output_tokens;
  d.requests_per_s = std::min(d.prefill_requests_per_s, d.decode_requests_per_s);
  d.pool_requests_per_s = d.requests_per_s;
  if (d.prefill.pooled && workload.reuse > 0) {
    const double nodes =
        objectives.cache_nodes > 0 ? objectives.cache_nodes : std::ceil(1.0 * d.npus / machine.npus_per_node);
    const double gbps = nodes * machine.cpus_per_node *
                        std::min(machine.host_path.cpu_link_gbps, link_gbps(machine, Access::read, Memory::host, 2));
    const double bytes = workload.reuse * workload.prompt_tokens * model.kv_bytes_per_token();
    d.pool_requests_per_s = std::min(1e300, gbps * 1e9 / bytes);
    d.requests_per_s = std::min(d.requests_per_s, d.pool_requests_per_s);
  } else {
    d.pool_requests_per_s = 1e300;  // unused
  }
  d.output_tokens_per_s_per_npu = d.npus > 0 ? d.requests_per_s * workload.output_tokens / d.npus : 0;
  d.limit = describe_limit(d);
}

Deployment published_deployment(const Machine& machine, const ModelShape& model, const Workload& workload,
                                const Objectives& objectives, const Optimisations& use) {
  Deployment like;
  like.prefill_instances = 6;
  like.decode_instances = 1;
  like.prefill = published_prefill(workload.prompt_tokens);
  like.decode = published_decode(1, 1);
  return rebuilt(machine, model, workload, objectives, like, use, Batch::chosen_anew);
}

std::vector<Deployment> search(const Machine& machine, const ModelShape& model, const Workload& workload,
                               const Objectives& objectives, const Optimisations& use, std::size_t count,
                               const GivenSizes& given) {
  const auto decodes = decode_choices(machine, model, workload, objectives, use, given);
  const auto prefills = prefill_choices(machine, model, workload, objectives, use, given);
  std::vector<Deployment> found;
  for (const DecodeSetup& decode : decodes) {
    for (const PrefillSetup& prefill : prefills) {
      Deployment d;
      d.decode = decode;
      d.prefill = prefill;
      d.decode_instances = d.prefill_instances = 1;
      evaluate(machine, model, workload, objectives, d);
      const double decode_rate = d.decode_requests_per_s, prefill_rate = d.prefill_requests_per_s;
      // Every split that leaves room for both; the rates grow with the counts, so the stages need not be modelled
      // again.
      const int decode_npus = d.decode_npus(machine), prefill_npus = d.prefill_npus(machine);
      double most = 0;
      for (int k = std::max(1, given.decode_instances); k * decode_npus + prefill_npus <= objectives.npus; ++k) {
        if (given.decode_instances > 0 && k > given.decode_instances) break;
        const int room = (objectives.npus - k * decode_npus) / prefill_npus;
        if (room < given.prefill_instances) continue;
        const int p = given.prefill_instances > 0 ? given.prefill_instances : room;
        const double rate = std::min(k * decode_rate, p * prefill_rate);
        if (rate <= most) continue;
        most = rate;
        d.decode_instances = k;
        // No more instances than the other stage can use.
        d.prefill_instances =
            given.prefill_instances > 0 ? p : std::min(p, static_cast<int>(std::ceil(rate / prefill_rate - 1e-9)));
      }
      if (most <= 0) continue;
      evaluate(machine, model, workload, objectives, d);
      // What is asked for is the best use of all NPUs: idle ones count.
      d.output_tokens_per_s_per_npu = d.requests_per_s * workload.output_tokens / objectives.npus;
      found.push_back(std::move(d));
    }
  }
  std::stable_sort(found.begin(), found.end(), [](const Deployment& a, const Deployment& b) {
    return a.output_tokens_per_s_per_npu > b.output_tokens_per_s_per_npu;
  });
  if (found.size() > count) found.resize(count);
  return found;
}

std::vector<Contribution> contributions(const Machine& machine, const ModelShape& model, const Workload& workload,
                                        const Objectives& objectives, const Deployment& deployment,
                                        const GivenSizes& given) {
  struct Switch {
    const char* name;
    bool Optimisations::*member;
  };
  constexpr Switch switches[] = {{"early quantisation", &Optimisations::early_quantisation},
                                 {"direct writes", &Optimisations::direct_writes},
                                 {"microbatches", &Optimisations::microbatches},
                                 {"speculative token", &Optimisations::mtp},
                                 {"pooled memory", &Optimisations::pool},
                                 {"redundant experts", &Optimisations::rebalancing}};
  const Batch batch = given.batch_per_npu > 0 ? Batch::kept : Batch::chosen_anew;
  const double base = rebuilt(machine, model, workload, objectives, deployment, {}, batch).output_tokens_per_s_per_npu;
  std::vector<Contribution> list;
  for (const Switch& one : switches) {
    Optimisations use;
    use.*one.member = false;
    const Deployment d = rebuilt(machine, model, workload, objectives, deployment, use, batch);
    // A deployment that misses the objective even with one request a die yields nothing.
    const bool meets = batch == Batch::kept || d.decode_result.tpot.ms() <= objectives.tpot_ms;
    list.push_back({one.name, d.decode_result.tpot.ms(), d.ttft.ms(),
                    100 * (1 - (meets ? d.output_tokens_per_s_per_npu : 0) / base)});
  }
  return list;
}

}  // namespace supernode::emulation
