#include "runtime/emulation/step_traffic.hpp"

#include <algorithm>
#include <numeric>

namespace supernode::emulation {
namespace {

ExchangeStyle style_of(const StepSetup& setup, CoreShare share, Phase phase) {
  return {.phase = phase,
          .ranks = setup.layout.dies,
          .vector_share = share.vector,
          .direct_writes = setup.exchange.direct_writes};
}

double message_bytes(const ModelShape& model, const StepSetup& setup, Phase phase) {
  return phase == Phase::dispatch ? dispatch_message_bytes(model.hidden, setup.exchange)
                                  : combine_message_bytes(model.hidden);
}

class RecordedTraffic : public StepTraffic {
 public:
  RecordedTraffic(const Machine& machine, const ModelShape& model, const StepSetup& setup, ExchangeGroup& group,
                  std::span<const DieStep> steps, CoreShare share)
      : machine_(machine), model_(model), setup_(setup), group_(group), steps_(steps), share_(share) {}

  void exchange(Phase phase, int microbatch, int layer, std::span<const ModelTime> starts,
                std::span<ModelTime> ends) override {
    const Layer& rows = prepared(microbatch, layer);
    group_.completions(style_of(setup_, share_, phase), phase == Phase::dispatch ? rows.sent : rows.returned,
                       message_bytes(model_, setup_, phase), starts, ends);
  }

  Terms waits(Phase phase, int microbatch, int layer, std::span<const ModelTime> starts, int die) override {
    const Layer& rows = prepared(microbatch, layer);
    return group_
        .completion(style_of(setup_, share_, phase), phase == Phase::dispatch ? rows.sent : rows.returned,
                    message_bytes(model_, setup_, phase), starts, die)
        .terms;
  }

  void experts(int microbatch, int layer, std::span<ModelTime> durations) override {
    const Layer& rows = prepared(microbatch, layer);
    const int slots_of_die = static_cast<int>(setup_.layout.slots_per_die(model_));
    for (int die = 0; die < setup_.layout.dies; ++die) {
      const auto i = static_cast<std::size_t>(die);
      ModelTime& time = durations[i];
      time = start_time(machine_, 2);
      double came = 0;
      if (die < setup_.layout.routed_dies()) {
        const auto first = static_cast<std::size_t>(die * slots_of_die);
        for (std::size_t slot = first; slot < first + static_cast<std::size_t>(slots_of_die); ++slot) {
          const std::int64_t count = rows.slots[slot];
          came += static_cast<double>(count);
          if (count > 0) time += routed_experts(machine_, model_, 1, static_cast<double>(count), share_).total();
        }
        // Without dies of their own the shared experts are everywhere, and a token's row does not leave its die.
        if (setup_.layout.shared_dies == 0)
          time +=
              shared_experts(machine_, model_, steps_[i].microbatches[index(microbatch)].work.tokens, share_).total();
      } else {
        const int shared = die - setup_.layout.routed_dies();
        came = static_cast<double>(rows.slots[static_cast<std::size_t>(setup_.layout.slots(model_) + shared)]);
        time += shared_experts(machine_, model_, came / std::max(1, model_.shared_experts), share_).total();
      }
      if (!setup_.exchange.early_quantisation) time += vector_time(machine_, came * model_.hidden * (2 + 1), share_);
    }
  }

  void received(int microbatch, int layer, std::span<double> rows) override {
    const Layer& of = prepared(microbatch, layer);
    const std::size_t n = steps_.size();
    std::fill(rows.begin(), rows.end(), 0.0);
    for (std::size_t from = 0; from < n; ++from)
      for (std::size_t to = 0; to < n; ++to) rows[to] += of.sent[from * n + to];
  }

 private:
  /// Rows of one layer and microbatch.
  struct Layer {
    int layer = -1;
    std::vector<std::int32_t> sent;      ///< [from][to]
    std::vector<std::int32_t> returned;  ///< [to][from]
    std::vector<std::int64_t> slots;     ///< [slots] from all dies
  };

  static std::size_t index(int i) { return static_cast<std::size_t>(i); }

  /// A layer's exchanges and experts ask for the same rows one after the other, so the last layer is kept.
  const Layer& prepared(int microbatch, int layer) {
    Layer& rows = layers_[index(microbatch)];
    if (rows.layer == layer) return rows;
    rows.layer = layer;
    const std::size_t n = steps_.size(), slots = index(record_slots(setup_.layout, model_));
    rows.sent.resize(n * n);
    rows.returned.resize(n * n);
    rows.slots.assign(slots, 0);
    for (std::size_t from = 0; from < n; ++from) {
      const std::int32_t* record = steps_[from].microbatches[index(microbatch)].rows.data() + index(layer) * slots;
      for (std::size_t slot = 0; slot < slots; ++slot) rows.slots[slot] += record[slot];
      add_by_die(record, rows.sent.data() + from * n);
    }
    constexpr std::size_t kTile = 16;
    for (std::size_t from = 0; from < n; from += kTile)
      for (std::size_t to = 0; to < n; to += kTile)
        for (std::size_t i = from; i < std::min(from + kTile, n); ++i)
          for (std::size_t j = to; j < std::min(to + kTile, n); ++j) rows.returned[j * n + i] = rows.sent[i * n + j];
    return rows;
  }

  void add_by_die(const std::int32_t* record, std::int32_t* sent) const {
    const std::size_t routed = index(setup_.layout.routed_dies());
    const auto each = static_cast<std::size_t>(setup_.layout.slots_per_die(model_));
    if (each == 1) {
      std::copy_n(record, steps_.size(), sent);
      return;
    }
    for (std::size_t die = 0; die < routed; ++die)
      sent[die] = std::accumulate(record + die * each, record + (die + 1) * each, std::int32_t{0});
    std::copy_n(record + routed * each, index(setup_.layout.shared_dies), sent + routed);
  }

  const Machine& machine_;
  const ModelShape& model_;
  const StepSetup& setup_;
  ExchangeGroup& group_;
  std::span<const DieStep> steps_;
  const CoreShare share_;
  Layer layers_[2];  ///< [microbatches]
};

class EvenTraffic : public StepTraffic {
 public:
  EvenTraffic(const Machine& machine, const ModelShape& model, const StepSetup& setup, const ExpertLoad& load,
              const DieStep& step, CoreShare share)
      : model_(model), step_(step) {
    for (const MicrobatchStep& microbatch : step.microbatches)
      stages_.push_back(moe_stage(machine, model, setup.layout, load, setup.exchange, microbatch.work.tokens,
                                  microbatch.work.sequences * setup.layout.dies, share));
  }

  void exchange(Phase phase, int microbatch, int, std::span<const ModelTime> starts,
                std::span<ModelTime> ends) override {
    ends[0] = starts[0] + terms(phase, microbatch).total();
  }
  Terms waits(Phase phase, int microbatch, int, std::span<const ModelTime>, int) override {
    return terms(phase, microbatch);
  }
  void experts(int microbatch, int, std::span<ModelTime> durations) override {
    durations[0] = stages_[static_cast<std::size_t>(microbatch)].experts.total();
  }
  void received(int microbatch, int, std::span<double> rows) override {
    const auto i = static_cast<std::size_t>(microbatch);
    rows[0] = stages_[i].skew * step_.microbatches[i].work.tokens * model_.topk;
  }

 private:
  const Terms& terms(Phase phase, int microbatch) const {
    const MoeStage& stage = stages_[static_cast<std::size_t>(microbatch)];
    return phase == Phase::dispatch ? stage.dispatch : stage.combine;
  }

  const ModelShape& model_;
  const DieStep& step_;
  std::vector<MoeStage> stages_;  ///< [microbatches]
};

}  // namespace

std::unique_ptr<StepTraffic> recorded_traffic(const Machine& machine, const ModelShape& model, const StepSetup& setup,
                                              ExchangeGroup& group, std::span<const DieStep> steps, CoreShare share) {
  return std::make_unique<RecordedTraffic>(machine, model, setup, group, steps, share);
}

std::unique_ptr<StepTraffic> even_traffic(const Machine& machine, const ModelShape& model, const StepSetup& setup,
                                          const ExpertLoad& load, const DieStep& step, CoreShare share) {
  return std::make_unique<EvenTraffic>(machine, model, setup, load, step, share);
}

}  // namespace supernode::emulation
