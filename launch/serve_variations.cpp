#include "launch/serve_variations.hpp"

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "runtime/core/error.hpp"

namespace supernode::launch {
namespace {

/// A part of a deployment that can be switched off on the ranks that it has.
struct Part {
  std::string_view name;
  /// Switches it off. @returns whether it was on
  bool (*switch_off)(serving::ServeOptions& options);
};

/// Whether steps are drawn.
bool draws(const serving::ServeOptions& options) {
  return options.modelled && options.modelled->compute == serving::Compute::shape;
}

/// Nothing else needs to know of a new part.
constexpr std::array kParts{
    Part{"pool",
         [](serving::ServeOptions& o) {
           return std::exchange(o.serving.context_cache, false) && o.serving.cache_ranks > 0;
         }},
    Part{"mtp",
         [](serving::ServeOptions& o) {
           const bool computed = std::exchange(o.serving.mtp, "off") == "on";
           const bool priced = o.modelled && std::exchange(o.modelled->config.mtp, false);
           return draws(o) ? priced : computed;
         }},
    Part{"microbatches",
         [](serving::ServeOptions& o) {
           const bool computed = std::exchange(o.serving.microbatches, 1) != 1;
           const bool priced = o.modelled && std::exchange(o.modelled->config.microbatches, 1) != 1;
           return draws(o) ? priced : computed;
         }},
    Part{"chunked-prefill", [](serving::ServeOptions& o) { return std::exchange(o.serving.chunk_tokens, 0) > 0; }},
    // What hot experts cost: as if all were used alike.
    Part{"expert-skew",
         [](serving::ServeOptions& o) {
           if (!draws(o)) return false;
           serving::ModelledConfig& config = o.modelled->config;
           const bool even = config.expert_load == "even" && config.drift == 0 && config.request_spread == 0;
           config.expert_load = "even";
           config.drift = config.request_spread = 0;
           return !even;
         }},
};

const Part& find_part(const std::string& name) {
  std::string known;
  for (const Part& part : kParts) {
    if (part.name == name) return part;
    known += fmt::format("{}{}", known.empty() ? "" : ", ", part.name);
  }
  throw UsageError(fmt::format("--ablate: '{}' is unknown; known: {}", name, known));
}

}  // namespace

std::string Variation::folder() const {
  if (kind == Kind::as_configured) return "";
  return fmt::format("{}/{}/", kind == Kind::without ? "ablation" : "peaks", name);
}

void VariationOptions::describe(OptionTable& t) {
  t.add("serve", "repeat", repeats_, "the workload is served so often, each time with the next seed; results are means")
      .range(1, 1000);
  std::string known;
  for (const Part& part : kParts) known += fmt::format("{}{}", known.empty() ? "" : ", ", part.name);
  t.add("serve", "ablate", ablate_,
        fmt::format("the workload is also served with each of these switched off in turn: {}", known));
  t.add("serve", "load_factors", load_factors_,
        "the workload is also served at these multiples of its rate, as 0.5,1,1.5,2");
}

std::vector<Variation> VariationOptions::make(const serving::ServeOptions& configured, bool at_once) const {
  std::vector<Variation> runs;
  runs.push_back({.options = configured});
  for (const std::string& name : ablate_) {
    if (std::count(ablate_.begin(), ablate_.end(), name) > 1)
      throw UsageError(fmt::format("--ablate: '{}' is there twice", name));
    Variation run{.kind = Variation::Kind::without, .name = name, .options = configured};
    if (!find_part(name).switch_off(run.options))
      throw UsageError(fmt::format("--ablate: '{}' is not on in this run", name));
    runs.push_back(std::move(run));
  }
  if (scales_load() && at_once)
    throw UsageError("--load-factors: all requests come at once, or as others end; see --request-rate");
  for (const double factor : load_factors_) {
    if (!(factor >= 1e-3 && factor <= 1e3))
      throw UsageError(fmt::format("--load-factors: {:g} is outside [0.001, 1000]", factor));
    if (std::count(load_factors_.begin(), load_factors_.end(), factor) > 1)
      throw UsageError(fmt::format("--load-factors: {:g} is there twice", factor));
    if (factor == 1) continue;
    runs.push_back({.kind = Variation::Kind::at_factor,
                    .name = fmt::format("{:g}", factor),
                    .load_factor = factor,
                    .options = configured});
  }
  if ((runs.size() > 1 || repeats_ > 1) && !configured.pool.directory.empty())
    throw UsageError("pool.directory: files keep blocks from run to run; several runs of a job begin with none");
  return runs;
}

}  // namespace supernode::launch
