#include "runtime/emulation/step_time.hpp"

#include <algorithm>
#include <array>
#include <stdexcept>
#include <utility>

#include <fmt/format.h>

#include "runtime/emulation/stage_costs.hpp"
#include "runtime/emulation/step_tasks.hpp"
#include "runtime/emulation/step_traffic.hpp"

namespace supernode::emulation {
namespace {

/// Schedules one step: its tasks in the order in which the streams of each die do them.
class StepSchedule {
 public:
  StepSchedule(const Machine& machine, const ModelShape& model, const StepSetup& setup, std::span<const DieStep> steps,
               std::span<const ModelTime> starts, StepTraffic& traffic)
      : machine_(machine),
        model_(model),
        setup_(setup),
        steps_(steps),
        traffic_(traffic),
        microbatches_(static_cast<int>(steps[0].microbatches.size())),
        tasks_(setup.stage == Stage::decode ? std::vector<std::string>{"attention", "moe"}
                                            : std::vector<std::string>{"compute", "exchange"},
               starts),
        ready_(static_cast<std::size_t>(microbatches_), -1),
        computing_(steps.size()) {}

  const StepTasks& decode();
  const StepTasks& prefill();
  /// StepTiming::in_exchanges and computing of what was scheduled.
  ModelTime in_exchanges() const { return in_exchanges_; }
  const std::vector<ModelTime>& computing() const { return computing_; }

 private:
  using Durations = std::vector<ModelTime>;  // [dies]

  /// cost(die's step) of each die. What it computes takes longer on a slow die.
  template <class Cost>
  Durations of_each(Cost cost) const {
    Durations durations;
    durations.reserve(steps_.size());
    for (const DieStep& step : steps_) durations.push_back(cost(step));
    return durations;
  }
  template <class Cost>
  Durations computing_of_each(Cost cost) const {
    return of_each([&](const DieStep& step) { return step.slowness * cost(step); });
  }
  void slow_down(Durations& durations) const {
    for (std::size_t die = 0; die < durations.size(); ++die) durations[die] = steps_[die].slowness * durations[die];
  }
  /// A task that computes. @param durations [dies], on slow dies the longer ones
  int compute(const char* name, int stream, int after, const Durations& durations, TaskPlace place = {}) {
    for (std::size_t die = 0; die < durations.size(); ++die) computing_[die] += durations[die];
    return tasks_.add(name, stream, after, durations, place);
  }
  int& ready(int microbatch) { return ready_[static_cast<std::size_t>(microbatch)]; }
  const AttentionWork& work(const DieStep& step, int microbatch) const {
    return step.microbatches[static_cast<std::size_t>(microbatch)].work;
  }
  int moe_layers() const { return model_.layers - model_.dense_layers; }
  /// @param layer of a record
  TaskPlace place(int layer, int microbatch) const { return {model_.dense_layers + layer, microbatch}; }

  int exchange(Phase phase, int stream, int microbatch, int layer) {
    const int task = tasks_.begin(phase == Phase::dispatch ? "dispatch" : "combine", stream, ready(microbatch),
                                  place(layer, microbatch), ExchangeTask{phase, microbatch, layer});
    const std::span<const ModelTime> begins = tasks_.begins(task);
    const std::span<ModelTime> ends = tasks_.ends(task);
    traffic_.exchange(phase, microbatch, layer, begins, ends);
    for (std::size_t die = 0; die < ends.size(); ++die) in_exchanges_ += ends[die] - begins[die];
    return task;
  }

  void decode_layer(const std::vector<Durations>& attention, const std::vector<Durations>& gate, int layer);

  /// Attention of prefill, as a task of stream 0.
  struct PrefillLayer {
    Durations before, after;
    ModelTime between;  ///< the same on all dies
    ModelTime heads;    ///< what of it they compute
  };
  PrefillLayer prefill_layer(int microbatch) const;
  int attend(const char* name, int after, const PrefillLayer& layer, TaskPlace place);
  void prefill_moe_layers(std::vector<PrefillLayer>& layers);

  const Machine& machine_;
  const ModelShape& model_;
  const StepSetup& setup_;
  std::span<const DieStep> steps_;
  StepTraffic& traffic_;
  const int microbatches_;
  StepTasks tasks_;
  std::vector<int> ready_;  ///< [microbatches] the task that each waits for, or -1
  ModelTime in_exchanges_{};
  Durations computing_;  ///< StepTiming::computing
};

void StepSchedule::decode_layer(const std::vector<Durations>& attention, const std::vector<Durations>& gate,
                                int layer) {
  Durations experts(steps_.size());
  for (int m = 0; m < microbatches_; ++m) {
    const auto i = static_cast<std::size_t>(m);
    ready(m) = compute("attention", 0, ready(m), attention[i], place(layer, m));
    ready(m) = compute("gate", 1, ready(m), gate[i], place(layer, m));
    ready(m) = exchange(Phase::dispatch, 1, m, layer);
    traffic_.experts(m, layer, experts);
    slow_down(experts);
    ready(m) = compute("experts", 1, ready(m), experts, place(layer, m));
    ready(m) = exchange(Phase::combine, 1, m, layer);
  }
}

const StepTasks& StepSchedule::decode() {
  const bool split = microbatches_ == 2;
  const double attention_share = split ? setup_.attention_share : 1, moe_share = split ? 1 - setup_.attention_share : 1;
  std::vector<Durations> attention, gate;
  for (int m = 0; m < microbatches_; ++m) {
    attention.push_back(computing_of_each([&](const DieStep& step) {
      return decode_attention(machine_, model_, work(step, m), {.matrix = attention_share, .vector = attention_share})
          .total();
    }));
    gate.push_back(computing_of_each([&](const DieStep& step) {
      return gate_stage(machine_, model_, work(step, m).tokens, {.matrix = moe_share, .vector = moe_share}).total();
    }));
  }
  // The few dense layers are not split.
  const Durations dense = computing_of_each([&](const DieStep& step) {
    const AttentionWork all = step.work();
    return decode_attention(machine_, model_, all).total() + dense_stage(machine_, model_, all.tokens).total();
  });
  for (int layer = 0; layer < model_.dense_layers; ++layer)
    ready(0) = compute("dense layer", 0, ready(0), dense, {.layer = layer});
  for (int& last : ready_) last = ready(0);
  for (int layer = 0; layer < moe_layers(); ++layer) decode_layer(attention, gate, layer);
  // Stream 1 does the microbatches in order, so the last one is the last to be ready.
  int last = compute("head, sampling", 0, ready_.back(), computing_of_each([&](const DieStep& step) {
                       return decode_head(machine_, model_, step.work().tokens, Picking::sample).total();
                     }));
  if (setup_.mtp) {
    last = compute("mtp join", 0, last, computing_of_each([&](const DieStep& step) {
                     return draft_join(machine_, model_, step.work().tokens);
                   }));
    std::fill(ready_.begin(), ready_.end(), last);
    decode_layer(attention, gate, moe_layers());
    last = compute("draft head", 0, ready_.back(), computing_of_each([&](const DieStep& step) {
                     return decode_head(machine_, model_, step.work().sequences, Picking::greedy).total();
                   }));
  }
  // Else each graph waits for the host in turn.
  if (!setup_.prepared_graphs)
    tasks_.add("graph launches", 0, last, of_each([&](const DieStep&) {
                 return ModelTime{(setup_.mtp ? 2 : 1) * machine_.die.graph_launch_us * 1e-6};
               }));
  return tasks_;
}

StepSchedule::PrefillLayer StepSchedule::prefill_layer(int microbatch) const {
  AttentionWork sum, most;
  for (const DieStep& step : steps_) {
    const AttentionWork& one = work(step, microbatch);
    sum += one;
    most.tokens = std::max(most.tokens, one.tokens);
    most.context = std::max(most.context, one.context);
  }
  const double each = 1.0 / static_cast<double>(steps_.size());
  const AttentionWork mean{sum.sequences * each, sum.tokens * each, sum.context * each, sum.attended * each};
  // Heads are shared evenly, so all wait for the slowest die's.
  double slowest = 1;
  for (const DieStep& step : steps_) slowest = std::max(slowest, step.slowness);
  PrefillLayer layer;
  for (const DieStep& step : steps_) {
    const PrefillAttention parts =
        prefill_attention(machine_, model_, setup_.layout.dies, work(step, microbatch), mean, most);
    layer.before.push_back(step.slowness * parts.before.total());
    layer.after.push_back(step.slowness * parts.after.total());
    const ModelTime whole = parts.between.total();
    layer.heads = whole - parts.between.of("all-gather") - parts.between.of("all-to-all");
    layer.between = whole + (slowest - 1) * layer.heads;
  }
  return layer;
}

int StepSchedule::attend(const char* name, int after, const PrefillLayer& layer, TaskPlace place) {
  const int task = tasks_.begin(name, 0, after, place);
  const std::span<const ModelTime> from = tasks_.begins(task);
  const std::span<ModelTime> to = tasks_.ends(task);
  ModelTime all_there = from[0] + layer.before[0];
  for (std::size_t die = 0; die < to.size(); ++die) all_there = std::max(all_there, from[die] + layer.before[die]);
  for (std::size_t die = 0; die < to.size(); ++die) {
    to[die] = all_there + layer.between + layer.after[die];
    computing_[die] += layer.before[die] + steps_[die].slowness * layer.heads + layer.after[die];
  }
  return task;
}

void StepSchedule::prefill_moe_layers(std::vector<PrefillLayer>& layers) {
  Durations experts(steps_.size());
  std::vector<double> rows(steps_.size());
  std::vector<Durations> sum;
  for (int m = 0; m < microbatches_; ++m) {
    const Durations packed = computing_of_each([&](const DieStep& step) {
      const double tokens = work(step, m).tokens;
      return gate_stage(machine_, model_, tokens).total() + prepare_rows(machine_, model_, tokens * model_.topk);
    });
    Durations& after = layers[static_cast<std::size_t>(m)].after;
    for (std::size_t die = 0; die < after.size(); ++die) after[die] += packed[die];
    sum.push_back(
        computing_of_each([&](const DieStep& step) { return sum_rows(machine_, model_, work(step, m).tokens); }));
  }
  // Microbatches take turns: while one's rows travel, the other computes. A microbatch goes on to its next attention
  // before the other's combine is awaited.
  for (int layer = 0; layer < moe_layers(); ++layer) {
    for (int m = 0; m < microbatches_; ++m) {
      if (layer > 0) ready(m) = compute("sum", 0, ready(m), sum[static_cast<std::size_t>(m)], place(layer - 1, m));
      ready(m) = attend("attention", ready(m), layers[static_cast<std::size_t>(m)], place(layer, m));
    }
    for (int m = 0; m < microbatches_; ++m) ready(m) = exchange(Phase::dispatch, 1, m, layer);
    for (int m = 0; m < microbatches_; ++m) {
      traffic_.experts(m, layer, experts);
      traffic_.received(m, layer, rows);
      for (std::size_t die = 0; die < steps_.size(); ++die) experts[die] += arrange_rows(machine_, model_, rows[die]);
      slow_down(experts);
      ready(m) = compute("experts", 0, ready(m), experts, place(layer, m));
    }
    for (int m = 0; m < microbatches_; ++m) ready(m) = exchange(Phase::combine, 1, m, layer);
  }
  if (moe_layers() > 0)
    for (int m = 0; m < microbatches_; ++m)
      ready(m) = compute("sum", 0, ready(m), sum[static_cast<std::size_t>(m)], place(moe_layers() - 1, m));
}

const StepTasks& StepSchedule::prefill() {
  const double piece = setup_.block_tokens * model_.kv_bytes_per_layer();
  const int pool = tasks_.add("pool", 0, -1, of_each([&](const DieStep& step) {
                                double bytes = 0;
                                for (const PoolLoad& load : step.loads) bytes += load.bytes;
                                return pool_read_time(machine_, setup_.network, bytes, piece).total();
                              }));
  std::fill(ready_.begin(), ready_.end(), pool);
  std::vector<PrefillLayer> layers;
  for (int m = 0; m < microbatches_; ++m) layers.push_back(prefill_layer(m));
  for (int layer = 0; layer < model_.dense_layers; ++layer) {
    for (int m = 0; m < microbatches_; ++m) {
      PrefillLayer dense = layers[static_cast<std::size_t>(m)];
      for (std::size_t die = 0; die < steps_.size(); ++die)
        dense.after[die] += steps_[die].slowness * dense_stage(machine_, model_, work(steps_[die], m).tokens).total();
      ready(m) = attend("dense layer", ready(m), dense, {.layer = layer, .microbatch = m});
    }
  }
  prefill_moe_layers(layers);
  // Only a prompt's last token needs logits.
  compute("head", 0, ready_.back(), computing_of_each([&](const DieStep& step) {
            return gemm_time(machine_, {.m = step.work().sequences, .n = model_.vocabulary, .k = model_.hidden});
          }));
  return tasks_;
}

CoreShare exchange_share(const StepSetup& setup, std::size_t microbatches) {
  if (setup.stage == Stage::prefill || microbatches < 2) return {};
  return {.matrix = 1 - setup.attention_share, .vector = 1 - setup.attention_share};
}

int last_of(std::span<const ModelTime> ends) {
  return static_cast<int>(std::max_element(ends.begin(), ends.end()) - ends.begin());
}

/// Times in `tasks` count from `origin`. @param ends of its dies @param line of the die that ends last
StepTiming timing_of(const StepTasks& tasks, StepTraffic& traffic, ModelTime origin, std::vector<ModelTime> ends,
                     const Timeline& line) {
  StepTiming timing;
  timing.last = last_of(ends);
  timing.ends = std::move(ends);
  for (const int task : line.critical_tasks()) {
    const Task& one = line.tasks()[static_cast<std::size_t>(task)];
    if (one.duration.value > 0) timing.terms.lengthen(one.name, one.duration);
    const auto& exchange = tasks.exchange(task);
    if (!exchange) continue;
    const Terms waits =
        traffic.waits(exchange->phase, exchange->microbatch, exchange->layer, tasks.begins(task), timing.last);
    for (const Term& wait : waits) timing.exchange.lengthen(wait.name, wait.time);
  }
  for (ModelTime& end : timing.ends) end += origin;
  return timing;
}

void check(bool holds, const std::string& what) {
  if (!holds) throw std::invalid_argument("record of a step: " + what);
}

void check_microbatches(std::size_t count) {
  check(count == 1 || count == 2, fmt::format("{} microbatches; there may be 1 or 2", count));
}

}  // namespace

class StepPricer::Implementation {
 public:
  Implementation(const Machine& machine, const ModelShape& model, StepSetup setup, std::span<const int> dies)
      : machine_(machine), model_(model), setup_(std::move(setup)), group_(machine, dies) {
    setup_.layout.check(model);
    if (group_.ranks() != setup_.layout.dies)
      throw std::invalid_argument(
          fmt::format("an instance of {} dies was given {}", setup_.layout.dies, group_.ranks()));
  }

  StepTiming price(std::span<const DieStep> steps, std::span<const ModelTime> starts,
                   std::vector<Timeline>* timelines) {
    check_records(steps, starts);
    // Relative to the first start: equal steps take equally long, whenever they are.
    const ModelTime origin = *std::min_element(starts.begin(), starts.end());
    std::vector<ModelTime> since;
    for (const ModelTime start : starts) since.push_back(start - origin);
    StepTiming timing = price_as_recorded(steps, since, origin, timelines);
    if (!setup_.joins_microbatches || setup_.stage != Stage::decode || steps[0].microbatches.size() < 2) return timing;
    std::vector<Timeline> other_timelines;
    std::vector<DieStep> whole;
    for (const DieStep& step : steps) whole.push_back(step.joined());
    StepTiming other = price_as_recorded(whole, since, origin, timelines ? &other_timelines : nullptr);
    if (!(other.end() < timing.end())) return timing;
    if (timelines) *timelines = std::move(other_timelines);
    return other;
  }

 private:
  StepTiming price_as_recorded(std::span<const DieStep> steps, std::span<const ModelTime> since, ModelTime origin,
                               std::vector<Timeline>* timelines) {
    const auto traffic =
        recorded_traffic(machine_, model_, setup_, group_, steps, exchange_share(setup_, steps[0].microbatches.size()));
    StepSchedule schedule(machine_, model_, setup_, steps, since, *traffic);
    const StepTasks& tasks = setup_.stage == Stage::decode ? schedule.decode() : schedule.prefill();
    if (timelines) {
      timelines->clear();
      for (int die = 0; die < tasks.dies(); ++die) timelines->push_back(tasks.timeline(die));
    }
    std::vector<ModelTime> ends = tasks.last_ends();
    const Timeline line = tasks.timeline(last_of(ends));
    StepTiming timing = timing_of(tasks, *traffic, origin, std::move(ends), line);
    timing.in_exchanges = schedule.in_exchanges();
    timing.computing = schedule.computing();
    timing.microbatches = static_cast<int>(steps[0].microbatches.size());
    return timing;
  }

  void check_records(std::span<const DieStep> steps, std::span<const ModelTime> starts) const {
    const auto dies = static_cast<std::size_t>(setup_.layout.dies);
    check(steps.size() == dies && starts.size() == dies,
          fmt::format("{} dies and {} starts for an instance of {}", steps.size(), starts.size(), dies));
    const std::size_t microbatches = steps[0].microbatches.size();
    check_microbatches(microbatches);
    const auto size = static_cast<std::size_t>(setup_.record_layers(model_) * record_slots(setup_.layout, model_));
    for (const DieStep& step : steps) {
      check(step.microbatches.size() == microbatches, "its dies have different numbers of microbatches");
      for (const MicrobatchStep& microbatch : step.microbatches)
        check(microbatch.rows.size() == size,
              fmt::format("{} rows by layer and slot where {} belong", microbatch.rows.size(), size));
    }
  }

  const Machine& machine_;
  const ModelShape& model_;
  const StepSetup setup_;
  ExchangeGroup group_;
};

StepPricer::StepPricer(const Machine& machine, const ModelShape& model, StepSetup setup, std::span<const int> dies)
    : implementation_(std::make_unique<Implementation>(machine, model, std::move(setup), dies)) {}
StepPricer::~StepPricer() = default;

StepTiming StepPricer::step_time(std::span<const DieStep> steps, std::span<const ModelTime> starts,
                                 std::vector<Timeline>* timelines) {
  return implementation_->price(steps, starts, timelines);
}

StepTiming uniform_step_time(const Machine& machine, const ModelShape& model, const StepSetup& setup,
                             const ExpertLoad& load, const DieStep& step, Timeline* timeline) {
  check_microbatches(step.microbatches.size());
  setup.layout.check(model);
  const auto traffic = even_traffic(machine, model, setup, load, step, exchange_share(setup, step.microbatches.size()));
  const std::array<ModelTime, 1> start{};
  StepSchedule schedule(machine, model, setup, {&step, 1}, start, *traffic);
  const StepTasks& tasks = setup.stage == Stage::decode ? schedule.decode() : schedule.prefill();
  Timeline line = tasks.timeline(0);
  StepTiming timing = timing_of(tasks, *traffic, {}, tasks.last_ends(), line);
  timing.in_exchanges = schedule.in_exchanges();
  timing.computing = schedule.computing();
  timing.microbatches = static_cast<int>(step.microbatches.size());
  if (timeline) *timeline = std::move(line);
  return timing;
}

}  // namespace supernode::emulation
