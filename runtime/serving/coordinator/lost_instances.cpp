// The part of the scheduler that goes on without an instance.
#include <algorithm>

#include "runtime/core/error.hpp"
#include "runtime/serving/coordinator/scheduler.hpp"

namespace supernode::serving {

void Scheduler::on(const Overdue& event, RunTime now, std::vector<Command>& commands) {
  InstanceId instance = event.instance;
  // KV has two ends. A decode die that reports takes in what comes: then it is the sender that is silent.
  if (event.kv && event.heard_since)
    instance = {emulation::Stage::prefill, find(*event.kv, Stage::handed_over, "overdue KV").prefill.instance};
  lost_.push_back({name_of(instance.stage), instance.index, event.why});
  const bool decodes = instance.stage == emulation::Stage::decode;
  const auto gone =
      std::count_if(lost_.begin(), lost_.end(), [&](const LostInstance& one) { return one.role == lost_.back().role; });
  if (gone == (decodes ? config_.decode_instances : config_.prefill_instances)) throw TimeoutError(event.why);
  commands.push_back(AbandonInstance{instance});
  const Ended failed{EndReason::failed, event.why};
  if (decodes)
    lose_decode(instance.index, failed, now, commands);
  else
    lose_prefill(instance.index, failed, now, commands);
  start_prefills(now, commands);
}

bool Scheduler::has_decode_die(const Active& active) const {
  return active.request->max_output > 1 && !fleet_.decode_lost[static_cast<std::size_t>(active.decode.instance)];
}

/// Requests of which a die of the instance has, or had to send, a part.
void Scheduler::lose_prefill(int index, const Ended& failed, RunTime now, std::vector<Command>& commands) {
  PrefillInstanceState& instance = fleet_.prefill[static_cast<std::size_t>(index)];
  instance.lost = true;
  instance.prompts.clear();
  std::fill(instance.missing_results.begin(), instance.missing_results.end(), std::nullopt);
  for (const RequestId id : under_way()) {
    Active& active = active_.at(id);
    if (active.prefill.instance != index || (active.stage != Stage::prefilling && active.stage != Stage::handed_over))
      continue;
    if (!active.ended) end(active, failed, now);
    if (has_decode_die(active))
      commands.push_back(drop_one(emulation::Stage::decode, active.decode, config_.decode_dies, id, Remainder::lost));
    release(id);
  }
}

/// Requests that have room on a die of the instance.
void Scheduler::lose_decode(int index, const Ended& failed, RunTime now, std::vector<Command>& commands) {
  fleet_.decode_lost[static_cast<std::size_t>(index)] = true;
  DecodeInstance& instance = decode_instance(index);
  instance.reports_missing = 0;
  instance.tokens.clear();
  for (auto* of_dies : {&instance.running, &instance.ready})
    for (std::vector<RequestId>& of_die : *of_dies) of_die.clear();
  for (const RequestId id : under_way()) {
    Active& active = active_.at(id);
    if (active.decode.instance != index) continue;
    if (!active.ended) end(active, failed, now);
    if (active.stage != Stage::prefilling)
      release(id);
    else if (fleet_.prefill_of(active.prefill).find(id)->in_step == 0)
      drop_prompt(active, commands);
    // else its prefill die is in the middle of a piece, and drops it when that is reported
  }
}

std::vector<RequestId> Scheduler::under_way() const {
  std::vector<RequestId> ids;
  for (const auto& [id, active] : active_)
    if (active.stage != Stage::queued) ids.push_back(id);
  std::sort(ids.begin(), ids.end());
  return ids;
}

}  // namespace supernode::serving
