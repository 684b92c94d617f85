#include "runtime/serving/workers/rebalancing_engine.hpp"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "runtime/core/byte_stream.hpp"
#include "runtime/core/error.hpp"
#include "runtime/core/mpi/deadline.hpp"
#include "runtime/core/stopwatch.hpp"

namespace supernode::serving {
namespace {

/// Behind the counts.
enum Total : std::size_t { bytes_away, tokens, step_s, totals };

std::size_t at(int index) { return static_cast<std::size_t>(index); }

std::vector<std::byte> encode(const moe::MovePiece& piece, MovableExperts& experts) {
  ByteWriter to;
  to.reserve(32 + piece.count);
  to.put<std::int32_t>(piece.layer).put<std::int32_t>(piece.expert).put<std::uint64_t>(piece.first);
  std::vector<std::byte> message = to.take();
  const std::size_t head = message.size();
  message.resize(head + piece.count);
  experts.read(piece, std::span(message).subspan(head));
  return message;
}

}  // namespace

RebalancingEngine::RebalancingEngine(StepEngine& inner, std::unique_ptr<MovableExperts> experts,
                                     RebalancingOptions options, InstanceDies dies)
    : inner_(inner),
      experts_(std::move(experts)),
      options_(options),
      dies_(std::move(dies)),
      shape_(experts_->shape()),
      first_placements_(experts_->placements()),
      placements_(first_placements_),
      counts_(layers() * at(shape_.experts + shape_.ranks) + totals) {
  expect(options_.interval > 0, "RebalancingEngine: an interval of no steps");
  inner_.set_background([this] {
    if (background_) background_();
    if (!awaited_.empty()) take_in();
  });
}

RebalancingEngine::~RebalancingEngine() { inner_.set_background({}); }

StepOutcome RebalancingEngine::step(std::span<const StepWork> works, RunTime start) {
  {
    const Stopwatch watch(figures_.wall_s);
    begin_moves(options_.bytes_per_step);
  }
  const WallTime begun = wall_now();
  StepOutcome outcome = inner_.step(works, start);
  const double took_s = outcome.end ? to_seconds(*outcome.end - start) : (wall_now() - begun).value;
  const Stopwatch watch(figures_.wall_s);
  count(works, outcome, took_s);
  finish_moves();
  if (++steps_ == options_.interval) look(to_seconds(start - RunTime{}) + took_s);
  return outcome;
}

void RebalancingEngine::begin_moves(std::size_t most) {
  const std::vector<moe::MovePiece> pieces = plan_.next(most);
  if (pieces.empty()) return;
  const double modelled = experts_->modelled_expert_bytes() / static_cast<double>(experts_->expert_bytes());
  std::vector<emulation::ExpertTransfer> transfers;
  for (const moe::MovePiece& piece : pieces) {
    if (dies_.die == 0) figures_.bytes_moved += piece.count;
    if (piece.from == dies_.die) transfers.push_back({piece.to, modelled * static_cast<double>(piece.count)});
    if (experts_->weights() == Weights::elided) continue;
    if (piece.to == dies_.die) awaited_.push_back(piece);
    if (piece.from == dies_.die) dies_.port->send(piece.to, 0, encode(piece, *experts_));
  }
  inner_.add_transfers(transfers);
  for (Message& message : std::exchange(early_, {})) take(std::move(message));
}

void RebalancingEngine::finish_moves() {
  const Deadline deadline(dies_.deadline_s);
  SpinWait spin(Idle::bell);
  while (!awaited_.empty()) {
    const std::size_t missing = awaited_.size();
    take_in();
    if (awaited_.size() < missing) {
      spin.reset();
      continue;
    }
    if (spin.turn() && deadline.expired())
      throw_timeout(fmt::format("die {} of its instance: no weights of expert {} of layer {} from die {}", dies_.die,
                                awaited_.front().expert, awaited_.front().layer, awaited_.front().from),
                    dies_.deadline_s);
  }
  for (moe::LayerChange& change : plan_.take_complete()) {
    experts_->place(change.layer, change.placement);
    if (dies_.die == 0) figures_.experts_moved += change.transfers.size();
    placements_[at(change.layer)] = std::move(change.placement);
    ++switched_;
  }
  if (plan_.done() && !early_.empty())
    throw EnvironmentError(fmt::format("die {} of its instance: weights from die {} that were not to come", dies_.die,
                                       early_.front().source));
}

void RebalancingEngine::take_in() {
  while (std::optional<Message> message = dies_.port->poll()) take(std::move(*message));
}

void RebalancingEngine::take(Message message) {
  if (!stage(message)) early_.push_back(std::move(message));
}

bool RebalancingEngine::stage(const Message& message) {
  ByteReader from(message.bytes);
  moe::MovePiece piece;
  piece.layer = from.get<std::int32_t>();
  piece.expert = from.get<std::int32_t>();
  piece.first = from.get<std::uint64_t>();
  piece.count = from.left();
  const auto found = std::find_if(awaited_.begin(), awaited_.end(), [&](const moe::MovePiece& one) {
    return one.from == message.source && one.layer == piece.layer && one.expert == piece.expert &&
           one.first == piece.first && one.count == piece.count;
  });
  if (found == awaited_.end()) return false;
  experts_->stage(*found, from.get_raw(piece.count));
  awaited_.erase(found);
  return true;
}

void RebalancingEngine::count(std::span<const StepWork> works, const StepOutcome& outcome, double took_s) {
  expect(outcome.record.has_value(), "experts are rebalanced where records are kept");
  const std::size_t slots = at(shape_.slots), n_experts = at(shape_.experts), ranks = at(shape_.ranks);
  double* const of_ranks = counts_.data() + layers() * n_experts;
  double* const sums = of_ranks + layers() * ranks;
  for (const emulation::MicrobatchStep& part : outcome.record->microbatches) {
    const std::size_t row = part.rows.size() / layers();  // the slots of shared experts are the last
    expect(row * layers() == part.rows.size() && row >= slots, "a record has the layers and slots of its experts");
    for (std::size_t layer = 0; layer < layers(); ++layer)
      for (std::size_t slot = 0; slot < slots; ++slot) {
        const std::int32_t rows = part.rows[layer * row + slot];
        if (rows == 0) continue;
        counts_[layer * n_experts + at(placements_[layer][slot])] += rows;
        of_ranks[layer * ranks + at(shape_.rank_of(static_cast<int>(slot)))] += rows;
      }
  }
  sums[Total::bytes_away] += experts_->bytes_away(*outcome.record);
  for (const StepWork& work : works) sums[Total::tokens] += static_cast<double>(work.tokens.size());
  for (const auto& further : outcome.further) sums[Total::tokens] += static_cast<double>(further.size());
  sums[Total::step_s] += took_s / dies_.count;
}

BalanceSample RebalancingEngine::sample_of(std::span<const double> sums, double at_s) const {
  BalanceSample sample;
  sample.at_s = at_s;
  sample.steps = static_cast<std::uint64_t>(steps_);
  const std::size_t ranks = at(shape_.ranks);
  const std::span<const double> of_ranks = sums.subspan(layers() * at(shape_.experts));
  for (std::size_t layer = 0; layer < layers(); ++layer) {
    const double imbalance = moe::max_over_mean(of_ranks.subspan(layer * ranks, ranks));
    sample.imbalance += imbalance / static_cast<double>(layers());
    sample.worst = std::max(sample.worst, imbalance);
  }
  const std::span<const double> all = of_ranks.subspan(layers() * ranks);
  sample.bytes_away = all[Total::bytes_away];
  sample.tokens = all[Total::tokens];
  sample.step_s = all[Total::step_s];
  sample.switched = switched_;
  return sample;
}

void RebalancingEngine::look(double at_s) {
  std::vector<double> sums = counts_;
  dies_.add_up(sums);
  if (dies_.die == 0) figures_.samples.push_back(sample_of(sums, at_s));
  std::ranges::fill(counts_, 0.0);
  steps_ = 0;
  if (!plan_.done()) return;
  std::vector<std::vector<double>> loads;
  bool uneven = false;
  for (std::size_t layer = 0; layer < layers(); ++layer) {
    const auto first = sums.begin() + static_cast<std::ptrdiff_t>(layer * at(shape_.experts));
    loads.emplace_back(first, first + shape_.experts);
    uneven = uneven ||
             moe::max_over_mean(moe::rank_loads(loads.back(), placements_[layer], shape_)) > options_.policy.threshold;
  }
  if (!uneven) return;
  std::vector<moe::LayerChange> changes = decide(loads);
  if (changes.empty()) return;
  if (dies_.die == 0) ++figures_.rebalancings;
  plan_ = moe::MovePlan(std::move(changes), shape_, experts_->expert_bytes());
}

std::vector<moe::LayerChange> RebalancingEngine::decide(const std::vector<std::vector<double>>& loads) {
  // By layer its place in the order of changes, from 1 on, and then its slots; zeros on all dies but the first.
  const std::size_t width = 1 + at(shape_.slots);
  std::vector<double> told(layers() * width);
  if (dies_.die == 0) {
    double order = 0;
    for (const moe::LayerChange& change : moe::rebalance(loads, placements_, shape_, options_.policy)) {
      double* const row = told.data() + at(change.layer) * width;
      row[0] = ++order;
      std::ranges::copy(change.placement, row + 1);
    }
  }
  dies_.add_up(told);
  std::map<double, moe::LayerChange> ordered;
  for (std::size_t layer = 0; layer < layers(); ++layer) {
    const double* const row = told.data() + layer * width;
    if (row[0] > 0)
      ordered[row[0]] = moe::change_of(static_cast<int>(layer), placements_[layer], {row + 1, row + width}, shape_);
  }
  std::vector<moe::LayerChange> changes;
  for (auto& [order, change] : ordered) changes.push_back(std::move(change));
  return changes;
}

BalanceFigures RebalancingEngine::expert_balance() const {
  BalanceFigures figures = figures_;
  for (const auto& [part, seconds] : inner_.modelled_s())
    if (part.ends_with(": expert moves")) figures.modelled_s += seconds;
  return figures;
}

void RebalancingEngine::restore() {
  experts_->drop_staged();
  std::vector<moe::LayerChange> back;
  for (std::size_t layer = 0; layer < layers(); ++layer)
    if (placements_[layer] != first_placements_[layer])
      back.push_back(moe::change_of(static_cast<int>(layer), placements_[layer], first_placements_[layer], shape_));
  plan_ = moe::MovePlan(std::move(back), shape_, experts_->expert_bytes());
  do {
    begin_moves(options_.bytes_per_step);
    finish_moves();
  } while (!plan_.done());
}

}  // namespace supernode::serving
