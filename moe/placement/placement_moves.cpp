#include "moe/placement/placement_moves.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "runtime/core/error.hpp"

namespace supernode::moe {
namespace {

/// Below this, differences of max/mean are rounding.
constexpr double tolerance = 1e-9;

std::size_t at(int index) { return static_cast<std::size_t>(index); }

/// A change of one slot, or of two that swap (other >= 0).
struct Step {
  int slot = -1, expert = -1, other = -1;
  double gain = 0;      ///< of max/mean
  double evenness = 0;  ///< decrease of the sum of squares, which decides between steps of equal gain
  int moves() const { return other >= 0 ? 2 : 1; }
  bool helps() const { return gain > tolerance || (gain > -tolerance && evenness > tolerance); }
  bool beats(const Step& o) const {
    const double mine = gain / moves(), its = o.gain / o.moves();
    if (mine > its + tolerance || its > mine + tolerance) return mine > its;
    return evenness / moves() > o.evenness / o.moves() + tolerance;
  }
};

/// One layer under improvement. Loads are in units of the mean load of a rank, so that a rank's load is its max/mean.
class Layer {
 public:
  Layer(std::span<const double> loads, std::vector<int>& placement, const PlacementShape& shape)
      : shape_(shape), loads_(loads.begin(), loads.end()), placement_(placement) {
    const double mean = std::accumulate(loads.begin(), loads.end(), 0.0) / shape.ranks;
    for (double& load : loads_) load = mean > 0 ? load / mean : 0;
    refresh();
  }

  /// The best step, or one that does not help. Only steps that change the load of the hottest rank can.
  Step best_step(bool swaps, RepeatedCopies repeated) {
    const auto may_go = [&](int expert, int slot) {
      return repeated == RepeatedCopies::avoided ? fits(expert, slot) : allowed(expert, slot);
    };
    Step best;
    const auto hottest = static_cast<int>(std::max_element(rank_load_.begin(), rank_load_.end()) - rank_load_.begin());
    if (rank_load_[at(hottest)] <= 0) return best;
    const int first = hottest * shape_.slots_per_rank(), last = first + shape_.slots_per_rank();
    for (int hot = first; hot < last; ++hot) {
      const int expert = placement_[at(hot)];
      for (int slot = 0; slot < shape_.slots; ++slot) {
        const int held = placement_[at(slot)];
        if (shape_.rank_of(slot) == hottest || held == expert) continue;
        if (count_[at(held)] > 1 && may_go(expert, slot)) consider(best, {slot, expert});
        if (swaps && may_go(expert, slot) && may_go(held, hot)) consider(best, {hot, held, slot});
      }
      if (count_[at(expert)] > 1)
        for (int other = 0; other < shape_.experts; ++other)
          if (other != expert && may_go(other, hot)) consider(best, {hot, other});
    }
    return best;
  }

  /// The step that does least harm of those that bring two copies on one rank apart; without a slot when there is none.
  Step best_separation() {
    Step best;
    const auto take_better = [&](Step step) {
      weigh(step);
      const bool better = std::abs(step.gain - best.gain) > tolerance ? step.gain > best.gain
                                                                      : step.evenness > best.evenness + tolerance;
      if (best.slot < 0 || better) best = step;
    };
    for (int slot = 0; slot < shape_.slots; ++slot) {
      if (!is_redundant(slot)) continue;
      const int expert = placement_[at(slot)];
      for (int other = 0; other < shape_.experts; ++other)
        if (fits(other, slot)) take_better({slot, other});
      for (int other = 0; other < shape_.slots; ++other)
        if (fits(expert, other) && fits(placement_[at(other)], slot)) take_better({slot, placement_[at(other)], other});
    }
    return best;
  }

  /// Takes `step`; @returns its moves without their layer.
  std::vector<ExpertMove> take(const Step& step) {
    const double share = step.gain / step.moves();
    const int replaced = placement_[at(step.slot)];
    std::vector<ExpertMove> moves{{0, step.slot, step.expert, replaced, find(step.expert), share}};
    if (step.other >= 0) {
      moves[0].source_slot = step.other;
      moves.push_back({0, step.other, replaced, step.expert, step.slot, share});
      placement_[at(step.other)] = replaced;
    }
    placement_[at(step.slot)] = step.expert;
    refresh();
    return moves;
  }

 private:
  void refresh() {
    count_ = count_copies(placement_, shape_.experts);
    rank_load_ = rank_loads(loads_, placement_, shape_);
    slots_of_.assign(at(shape_.experts), {});
    for (int slot = 0; slot < shape_.slots; ++slot) slots_of_[at(placement_[at(slot)])].push_back(slot);
    peak_ = *std::max_element(rank_load_.begin(), rank_load_.end());
    squares_ = std::inner_product(rank_load_.begin(), rank_load_.end(), rank_load_.begin(), 0.0);
  }

  int find(int expert) const { return slots_of_[at(expert)].front(); }

  bool allowed(int expert, int slot) const {
    if (!shape_.hierarchical() || shape_.nodes == 1) return true;
    const int island = shape_.ranks_per_island(), node = shape_.rank_of(slot) / island;
    return std::any_of(slots_of_[at(expert)].begin(), slots_of_[at(expert)].end(),
                       [&](int held) { return shape_.rank_of(held) / island == node; });
  }

  bool on_rank(int expert, int rank) const {
    return std::any_of(slots_of_[at(expert)].begin(), slots_of_[at(expert)].end(),
                       [&](int held) { return shape_.rank_of(held) == rank; });
  }

  /// Whether `expert` may go to `slot` and has no copy on its rank yet.
  bool fits(int expert, int slot) const { return allowed(expert, slot) && !on_rank(expert, shape_.rank_of(slot)); }

  bool is_redundant(int slot) const {
    const std::vector<int>& slots = slots_of_[at(placement_[at(slot)])];
    return std::any_of(slots.begin(), slots.end(),
                       [&](int held) { return held < slot && shape_.rank_of(held) == shape_.rank_of(slot); });
  }

  /// Gives the slots of `expert` its load over `count` copies instead of over what it has.
  void reshare(int expert, int count) {
    const double change = loads_[at(expert)] / count - loads_[at(expert)] / count_[at(expert)];
    for (const int slot : slots_of_[at(expert)]) trial_[at(shape_.rank_of(slot))] += change;
  }

  void consider(Step& best, Step step) {
    weigh(step);
    if (step.helps() && (!best.helps() || step.beats(best))) best = step;
  }

  /// Finds out what the step would gain.
  void weigh(Step& step) {
    trial_ = rank_load_;
    const int held = placement_[at(step.slot)], rank = shape_.rank_of(step.slot);
    if (step.other >= 0) {
      const double change = loads_[at(step.expert)] / count_[at(step.expert)] - loads_[at(held)] / count_[at(held)];
      trial_[at(rank)] += change;
      trial_[at(shape_.rank_of(step.other))] -= change;
    } else {
      reshare(held, count_[at(held)] - 1);
      trial_[at(rank)] -= loads_[at(held)] / (count_[at(held)] - 1);
      reshare(step.expert, count_[at(step.expert)] + 1);
      trial_[at(rank)] += loads_[at(step.expert)] / (count_[at(step.expert)] + 1);
    }
    double peak = 0, squares = 0;
    for (const double load : trial_) {
      peak = std::max(peak, load);
      squares += load * load;
    }
    step.gain = peak_ - peak;
    step.evenness = squares_ - squares;
  }

  const PlacementShape& shape_;
  std::vector<double> loads_;
  std::vector<int>& placement_;
  std::vector<int> count_;                  ///< copies of every expert
  std::vector<std::vector<int>> slots_of_;  ///< of every expert
  std::vector<double> rank_load_, trial_;
  double peak_ = 0, squares_ = 0;
};

}  // namespace

std::vector<ExpertMove> separate_copies(std::span<const std::vector<double>> loads,
                                        std::span<std::vector<int>> placements, const PlacementShape& shape) {
  std::vector<ExpertMove> moves;
  for (std::size_t layer = 0; layer < loads.size(); ++layer) {
    Layer state(loads[layer], placements[layer], shape);
    // Each step takes one redundant copy away, and none makes one.
    for (Step step = state.best_separation(); step.slot >= 0; step = state.best_separation())
      for (ExpertMove move : state.take(step)) {
        move.layer = static_cast<int>(layer);
        moves.push_back(move);
      }
  }
  return moves;
}

std::vector<ExpertMove> improve_placements(std::span<const std::vector<double>> loads,
                                           std::span<std::vector<int>> placements, const PlacementShape& shape,
                                           int max_moves, RepeatedCopies repeated) {
  expect(loads.size() == placements.size(), "improve_placements: layers differ");
  std::vector<Layer> layers;
  for (std::size_t layer = 0; layer < loads.size(); ++layer)
    layers.emplace_back(loads[layer], placements[layer], shape);
  std::vector<ExpertMove> moves;
  std::vector<Step> steps(layers.size());
  std::vector<bool> stale(layers.size(), true);
  bool swaps = true;
  while (static_cast<int>(moves.size()) < max_moves) {
    if (swaps && max_moves - static_cast<int>(moves.size()) < 2) {
      swaps = false;
      stale.assign(layers.size(), true);
    }
    const Step* best = nullptr;
    for (std::size_t layer = 0; layer < layers.size(); ++layer) {
      if (stale[layer]) steps[layer] = layers[layer].best_step(swaps, repeated);
      stale[layer] = false;
      if (steps[layer].helps() && (!best || steps[layer].beats(*best))) best = &steps[layer];
    }
    if (!best) break;
    const auto layer = static_cast<std::size_t>(best - steps.data());
    for (ExpertMove move : layers[layer].take(*best)) {
      move.layer = static_cast<int>(layer);
      moves.push_back(move);
    }
    stale[layer] = true;
  }
  return moves;
}

std::vector<ExpertMove> moves_between(std::span<const std::vector<double>> loads,
                                      std::span<const std::vector<int>> before, std::span<const std::vector<int>> after,
                                      const PlacementShape& shape) {
  std::vector<ExpertMove> moves;
  for (std::size_t layer = 0; layer < before.size(); ++layer) {
    const std::size_t first_move = moves.size();
    for (int slot = 0; slot < shape.slots; ++slot) {
      const int expert = after[layer][at(slot)];
      const auto mine = before[layer].begin() + shape.rank_of(slot) * shape.slots_per_rank();
      if (std::find(mine, mine + shape.slots_per_rank(), expert) != mine + shape.slots_per_rank()) continue;
      const auto source = std::find(before[layer].begin(), before[layer].end(), expert) - before[layer].begin();
      moves.push_back({static_cast<int>(layer), slot, expert, before[layer][at(slot)], static_cast<int>(source), 0});
    }
    const double gain = max_over_mean(rank_loads(loads[layer], before[layer], shape)) -
                        max_over_mean(rank_loads(loads[layer], after[layer], shape));
    for (std::size_t move = first_move; move < moves.size(); ++move)
      moves[move].gain = gain / static_cast<double>(moves.size() - first_move);
  }
  return moves;
}

}  // namespace supernode::moe
