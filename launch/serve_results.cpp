#include "launch/serve_results.hpp"

#include <algorithm>

#include "launch/modelled_options.hpp"

namespace supernode::launch {

serving::RunDescription describe_run(const serving::ServeOptions& options, const serving::ServeOutcome& outcome,
                                     int dies_per_npu) {
  const serving::ServingConfig& s = options.serving;
  serving::RunDescription run;
  run.dies = s.prefill_instances * s.prefill_dies + s.decode_instances * s.decode_dies;
  run.dies_per_npu = dies_per_npu;
  run.die_steps = outcome.die_steps;
  run.guesses = outcome.guesses;
  run.iterations = outcome.iterations;
  run.tpot_objective_ms = s.tpot_objective_ms;
  if (!options.modelled) return run;
  run.clock = "modelled";
  run.machine = options.modelled->machine.name;
  run.wall = outcome.wall;
  run.modelled_s = outcome.modelled_s;
  run.payload = outcome.payload;
  run.steady_options = options.modelled->steady;
  if (!outcome.steady) return run;
  run.steady = *outcome.steady;
  run.steady_s = serving::to_seconds(outcome.last - serving::RunTime{});
  run.formula_step_ms = ModelledOptions::formula_step_ms(*options.modelled, s, run.steady.requests_per_die);
  run.steady_dies = run.steady_options->stage == serving::SteadyOptions::Stage::decode
                        ? s.decode_instances * s.decode_dies
                        : s.prefill_instances * s.prefill_dies;
  return run;
}

Samples request_samples(const std::vector<serving::ServedRequest>& requests, const std::string& folder) {
  Samples rows{folder + "requests", {}, {requests.size(), 11}};
  rows.columns = {"arrival_ms",  "queue_ms", "pool_ms",    "prefill_ms",      "handover_ms",  "decode_ms",
                  "exchange_ms", "e2el_ms",  "hit_tokens", "computed_tokens", "output_tokens"};
  for (const serving::ServedRequest& served : requests) {
    const serving::RequestRecord& r = served.record;
    const serving::PartTimes p = serving::parts_of(r);
    for (const serving::RunSpan value : {r.arrived - serving::RunTime{}, p.queue, p.pool, p.prefill, p.handover,
                                         p.decode, p.exchange, r.finished - r.arrived})
      rows.values.push_back(serving::to_ms(value));
    for (const std::size_t count :
         {static_cast<std::size_t>(r.hit_tokens), static_cast<std::size_t>(r.computed_tokens), r.tokens.size()})
      rows.values.push_back(static_cast<double>(count));
  }
  return rows;
}

std::vector<Samples> series_samples(const std::vector<serving::SeriesTable>& tables, const std::string& folder) {
  std::vector<Samples> samples;
  for (const serving::SeriesTable& table : tables)
    samples.push_back({folder + "series/" + table.name, table.values, table.shape});
  return samples;
}

Samples repeat_samples(const std::vector<Json>& repeats, const std::string& folder) {
  Samples rows{folder + "repeats/values", {}, {}};
  for (const auto& entry : repeats.front().items()) {
    const bool of_all = std::all_of(repeats.begin(), repeats.end(), [&](const Json& one) {
      return one.contains(entry.key()) && one[entry.key()].is_number();
    });
    if (of_all) rows.columns.push_back(entry.key());
  }
  for (const Json& one : repeats)
    for (const std::string& key : rows.columns) rows.values.push_back(one[key].get<double>());
  rows.shape = {repeats.size(), rows.columns.size()};
  return rows;
}

}  // namespace supernode::launch
