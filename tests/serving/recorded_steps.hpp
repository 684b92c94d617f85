#pragma once
// Steps of two small instances as their first dies report them, for tests of what keeps them.

#include <filesystem>
#include <numeric>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include <unistd.h>

#include "runtime/core/config_path.hpp"
#include "runtime/serving/record/priced_step.hpp"
#include "runtime/serving/record/run_head.hpp"

namespace supernode::serving::test {

/// A path in the folder for temporary files, gone at the end.
struct TemporaryPath {
  explicit TemporaryPath(const std::string& end)
      : name((std::filesystem::temp_directory_path() / ("supernode-record-" + std::to_string(::getpid()) + end))
                 .string()) {
    std::filesystem::remove(name);
  }
  ~TemporaryPath() { std::filesystem::remove(name); }
  std::string name;
};

inline emulation::ModelShape small_model() {
  return {.name = "small",
          .layers = 3,
          .dense_layers = 1,
          .mtp_layers = 1,
          .hidden = 1024,
          .dense_ffn = 2048,
          .expert_ffn = 512,
          .experts = 6,
          .shared_experts = 1,
          .topk = 2,
          .heads = 8,
          .q_lora = 256,
          .kv_lora = 128,
          .rope = 32,
          .nope = 64,
          .value = 64,
          .vocabulary = 1000};
}

/// A prefill instance of two dies and a decode instance of three on the shipped machine.
inline RunHead small_head() {
  RunHead head{"0.0.0", emulation::load_machine("cloudmatrix384"), small_model(), {}};
  RunHead::Instance prefill{{emulation::Stage::prefill, 0}, {}, {0, 1}};
  prefill.setup.stage = emulation::Stage::prefill;
  prefill.setup.layout.dies = 2;
  prefill.setup.network = emulation::PoolNetwork::vpc;
  RunHead::Instance decode{{emulation::Stage::decode, 0}, {}, {14, 15, 16}};
  decode.setup.layout.dies = 3;
  decode.setup.mtp = true;
  decode.setup.attention_share = 1.0 / 3;
  head.instances = {prefill, decode};
  return head;
}

/// Step `number` of an instance, priced; with all tasks when it is `traced`.
inline StepReport small_step(const RunHead& head, const RunHead::Instance& instance, int number, bool traced = false) {
  std::mt19937 random(static_cast<unsigned>(number) + 100 * static_cast<unsigned>(instance.id.stage));
  const int layers = instance.setup.record_layers(head.model), slots = record_slots(instance.setup.layout, head.model);
  std::vector<StartedStep> steps;
  StepReport report;
  report.step = number;
  for (std::size_t i = 0; i < instance.dies.size(); ++i) {
    StartedStep started;
    started.start = RunTime(std::chrono::milliseconds(10 * number) + std::chrono::microseconds(random() % 50));
    emulation::MicrobatchStep part;
    for (unsigned n = 0; n < 1 + random() % 4; ++n) part.work.add(2, 100 + static_cast<double>(random() % 1000));
    part.rows.resize(static_cast<std::size_t>(layers * slots));
    for (std::int32_t& rows : part.rows) rows = static_cast<std::int32_t>(random() % 300);
    started.step.microbatches = {part, part};
    if (instance.id.stage == emulation::Stage::prefill) started.step.loads = {{0, 1e6}};
    StepReport::Die& die = report.dies.emplace_back();
    die.start = started.start;
    die.wall_begin = {0.01 * number + 0.001 * static_cast<double>(i)};
    die.wall_end = {0.01 * number + 0.003};
    die.sequences = 2 * part.work.sequences;
    die.tokens = 2 * part.work.tokens;
    die.context = 2 * part.work.context;
    die.record = encode_step(started);
    steps.push_back(std::move(started));
  }
  report.wall_priced = {0.01 * number + 0.004};
  emulation::StepPricer pricer(head.machine, head.model, instance.setup, instance.dies);
  std::vector<emulation::Timeline> timelines;
  std::vector<RunTime> starts;
  for (const StepReport::Die& die : report.dies) starts.push_back(die.start);
  const PricedStep priced = price_step(pricer, std::move(steps), &timelines);
  for (std::size_t i = 0; i < report.dies.size(); ++i) report.dies[i].end = priced.ends[i];
  report.exchange = run_span((priced.timing.terms.of("dispatch") + priced.timing.terms.of("combine")).value);
  if (traced) report.timeline = step_timeline(timelines, starts, priced.ends);
  return report;
}

}  // namespace supernode::serving::test
