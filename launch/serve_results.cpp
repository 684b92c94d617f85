#include "launch/serve_results.hpp"

#include "launch/modelled_options.hpp"

namespace supernode::launch {

serving::RunDescription describe_run(const serving::ServeOptions& options, const serving::ServeOutcome& outcome,
                                     int dies_per_npu) {
  const serving::ServingConfig& s = options.serving;
  serving::RunDescription run;
  run.dies = s.prefill_instances * s.prefill_dies + s.decode_instances * s.decode_dies;
  run.dies_per_npu = dies_per_npu;
  if (!options.modelled) return run;
  run.clock = "modelled";
  run.machine = options.modelled->machine.name;
  run.wall = outcome.wall;
  run.modelled_s = outcome.modelled_s;
  run.steady_options = options.modelled->steady;
  if (!outcome.steady) return run;
  run.steady = *outcome.steady;
  run.steady_s = serving::to_seconds(outcome.last - serving::RunTime{});
  run.formula_step_ms = ModelledOptions::formula_step_ms(*options.modelled, s);
  run.steady_dies = run.steady_options->stage == serving::SteadyOptions::Stage::decode
                        ? s.decode_instances * s.decode_dies
                        : s.prefill_instances * s.prefill_dies;
  return run;
}

Samples request_samples(const std::vector<serving::ServedRequest>& requests) {
  Samples rows{"requests", {}, {requests.size(), 11}};
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

}  // namespace supernode::launch
