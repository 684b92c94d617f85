// supernode place: where experts and their copies go, from how often each was chosen.
#include <algorithm>
#include <numeric>

#include <fmt/format.h>

#include "launch/commands.hpp"
#include "moe/placement/placement_file.hpp"
#include "moe/placement/placement_moves.hpp"
#include "runtime/core/error.hpp"
#include "runtime/core/expert_counts.hpp"
#include "runtime/core/files.hpp"

namespace supernode::launch {
namespace {

using Loads = std::vector<std::vector<double>>;
using Placements = std::vector<std::vector<int>>;

/// max/mean of a quantity over layers that have any load.
struct LayerSummary {
  double mean = 0, worst = 0;
};

LayerSummary over_layers(const std::vector<double>& per_layer) {
  LayerSummary summary;
  int layers = 0;
  for (const double value : per_layer) {
    if (value == 0) continue;
    ++layers;
    summary.mean += value;
    summary.worst = std::max(summary.worst, value);
  }
  if (layers > 0) summary.mean /= layers;
  return summary;
}

/// The load of every rank, layer by layer, and what follows from it.
class Traffic {
 public:
  void add_layer(std::vector<double> rank_loads) {
    imbalance.push_back(moe::max_over_mean(rank_loads));
    total.resize(rank_loads.size(), 0.0);
    for (std::size_t rank = 0; rank < total.size(); ++rank) total[rank] += rank_loads[rank];
  }

  /// [source][destination], all layers together: tokens come from all ranks alike, so each sends an equal share of what
  /// a rank gets.
  std::vector<double> matrix() const {
    std::vector<double> sent;
    for (std::size_t source = 0; source < total.size(); ++source)
      for (const double load : total) sent.push_back(load / static_cast<double>(total.size()));
    return sent;
  }

  std::vector<double> imbalance;  ///< of every layer
  std::vector<double> total;      ///< of every rank, all layers together
};

Json nested(const std::vector<double>& matrix, std::size_t columns) {
  Json rows = Json::array();
  for (std::size_t first = 0; first < matrix.size(); first += columns)
    rows.push_back(std::vector<double>(matrix.begin() + static_cast<std::ptrdiff_t>(first),
                                       matrix.begin() + static_cast<std::ptrdiff_t>(first + columns)));
  return rows;
}

class PlaceCommand : public Command {
 public:
  void describe(OptionTable& table) override {
    const std::string section = "place";
    table.add(section, "load", load_, "JSON file {\"logical_count\": [layers][experts]}: how often each was chosen");
    table.add(section, "replicas", shape_.slots, "physical experts in all, copies included; 0: one of each")
        .range(0, 1 << 20);
    table.add(section, "groups", shape_.groups, "groups of experts that the gate limits tokens to").range(1, 1 << 20);
    table.add(section, "nodes", shape_.nodes, "where they divide the groups, a group's copies stay in one node")
        .range(1, 1 << 20);
    table.add(section, "ranks", shape_.ranks, "dies that hold the experts").range(1, 1 << 20);
    table.add(section, "current", current_, "JSON file with the placement in force, as this command prints it");
    table.add(section, "max_moves", max_moves_, "improve the current placement by at most so many expert transfers")
        .range(0, 1 << 30);
    table.add(section, "refine", refine_, "improve the published algorithm's result by a search");
    table.add(section, "traffic", traffic_, "print who sends how much to whom, before and after");
  }

  int run(const Context& context) override {
    const bool limited = context.options->given("place", "max_moves");
    if (load_.empty()) throw UsageError("--load: a file with the experts' loads is needed");
    if (!context.options->given("place", "ranks")) throw UsageError("--ranks: their number is needed");
    if (limited && current_.empty()) throw UsageError("--max-moves needs --current");
    if (limited && refine_) throw UsageError("--refine and --max-moves exclude one another");

    const Loads loads = parse_expert_counts(read_file(load_), load_);
    moe::PlacementShape shape = shape_;
    shape.experts = static_cast<int>(loads[0].size());
    if (shape.slots == 0) shape.slots = shape.experts;
    moe::check(shape);

    Placements before, after;
    if (!current_.empty()) before = moe::parse_placement(read_file(current_), current_, shape, loads.size());
    std::vector<moe::ExpertMove> moves;
    if (limited) {
      after = before;
      moves = moe::improve_placements(loads, after, shape, max_moves_);
    } else {
      for (const std::vector<double>& layer : loads) after.push_back(moe::place_experts(layer, shape));
      if (refine_) {
        moe::separate_copies(loads, after, shape);
        moe::improve_placements(loads, after, shape, moe::unlimited_moves, moe::RepeatedCopies::avoided);
      }
      if (!before.empty()) moves = moe::moves_between(loads, before, after, shape);
    }
    show(context, loads, shape, before, after, moves);
    return static_cast<int>(ExitCode::good);
  }

 private:
  /// What the placements come to, layer by layer.
  struct Figures {
    Traffic was, is;
    std::vector<double> hottest;  ///< of each layer, its hottest expert over the mean
    int redundant = 0;            ///< copies beside another one of the same expert
  };

  void show(const Context& context, const Loads& loads, const moe::PlacementShape& shape, const Placements& before,
            const Placements& after, const std::vector<moe::ExpertMove>& moves) const {
    Figures figures;
    const Written layers = layer_table(loads, shape, before, after, figures);
    const Written steps = move_table(shape, moves);
    const LayerSummary expert = over_layers(figures.hottest), old = over_layers(figures.was.imbalance),
                       now = over_layers(figures.is.imbalance);
    const char* policy = shape.hierarchical() ? "hierarchical" : "global";
    Json results{{"layers", layers.json},
                 {"max_over_mean_before", old.mean},
                 {"max_over_mean_after", now.mean},
                 {"moves", steps.json},
                 {"worst_layer", {{"max_over_mean_before", old.worst}, {"max_over_mean_after", now.worst}}},
                 {"hottest_expert_over_mean", expert.mean},
                 {"policy", policy},
                 {"redundant_copies", figures.redundant},
                 {"rank_load", {{"before", figures.was.total}, {"after", figures.is.total}}}};
    const std::size_t ranks = figures.was.total.size();
    if (traffic_)
      results["traffic"] = {{"before", nested(figures.was.matrix(), ranks)},
                            {"after", nested(figures.is.matrix(), ranks)}};

    const std::string text = fmt::format(
        "# {} experts in {} slots on {} ranks, {} policy; {} layers, of which {} have a load\n"
        "# before: {}; columns are maximum over mean: of experts, of ranks before and after\n"
        "{}# mean over layers {:.4f} -> {:.4f}, worst layer {:.4f} -> {:.4f}, hottest expert {:.4f}; {} moves\n{}{}{}",
        shape.experts, shape.slots, shape.ranks, policy, loads.size(),
        std::count_if(figures.hottest.begin(), figures.hottest.end(), [](double value) { return value > 0; }),
        before.empty() ? "one copy of each expert, consecutive experts on a rank" : current_, layers.text, old.mean,
        now.mean, old.worst, now.worst, expert.mean, moves.size(), redundant_text(figures.redundant), steps.text,
        traffic_text(figures.was, figures.is));
    report(context, "place", results, text, samples(shape, after, figures.was, figures.is));
  }

  static Written layer_table(const Loads& loads, const moe::PlacementShape& shape, const Placements& before,
                             const Placements& after, Figures& figures) {
    Written table{Json::array(), fmt::format("{:>6} {:>12} {:>12} {:>12} {:>10}\n", "#layer", "hot_expert", "before",
                                             "after", "max_copies")};
    for (std::size_t layer = 0; layer < loads.size(); ++layer) {
      figures.was.add_layer(before.empty() ? moe::unplaced_rank_loads(loads[layer], shape.ranks)
                                           : moe::rank_loads(loads[layer], before[layer], shape));
      figures.is.add_layer(moe::rank_loads(loads[layer], after[layer], shape));
      figures.hottest.push_back(moe::max_over_mean(loads[layer]));
      const double hottest = figures.hottest.back(), was = figures.was.imbalance.back(),
                   is = figures.is.imbalance.back();
      const std::vector<int> copies = moe::count_copies(after[layer], shape.experts);
      const int redundant = moe::count_redundant(after[layer], shape);
      figures.redundant += redundant;
      table.json.push_back({{"physical_to_logical", after[layer]},
                            {"replicas", copies},
                            {"redundant_copies", redundant},
                            {"hottest_expert_over_mean", hottest},
                            {"max_over_mean_before", was},
                            {"max_over_mean_after", is}});
      if (hottest > 0)
        table.text += fmt::format("{:>6} {:>12.4f} {:>12.4f} {:>12.4f} {:>10}\n", layer, hottest, was, is,
                                  *std::max_element(copies.begin(), copies.end()));
    }
    return table;
  }

  static Written move_table(const moe::PlacementShape& shape, const std::vector<moe::ExpertMove>& moves) {
    Written table{Json::array(), {}};
    if (!moves.empty())
      table.text = fmt::format("{:>6} {:>6} {:>6} {:>8} {:>8} {:>10} {:>10}\n", "#layer", "slot", "rank", "expert",
                               "replaced", "from_rank", "gain");
    for (const moe::ExpertMove& move : moves) {
      const int rank = shape.rank_of(move.slot), from = shape.rank_of(move.source_slot);
      table.json.push_back({{"layer", move.layer},
                            {"slot", move.slot},
                            {"rank", rank},
                            {"expert", move.expert},
                            {"replaced", move.replaced},
                            {"from_rank", from},
                            {"gain", move.gain}});
      table.text += fmt::format("{:>6} {:>6} {:>6} {:>8} {:>8} {:>10} {:>10.6f}\n", move.layer, move.slot, rank,
                                move.expert, move.replaced, from, move.gain);
    }
    return table;
  }

  std::string redundant_text(int copies) const {
    if (copies == 0) return {};
    return fmt::format("# {} copies lie on a rank that holds their expert already and relieve nobody{}\n", copies,
                       refine_ ? ": there is no other slot for them" : "; --refine brings them apart where it can");
  }

  std::string traffic_text(const Traffic& was, const Traffic& is) const {
    if (!traffic_) return {};
    std::string text = fmt::format("{:>6} {:>14} {:>14}   choices sent to a rank by each rank, all layers\n", "#rank",
                                   "before", "after");
    const auto ranks = static_cast<double>(was.total.size());
    for (std::size_t rank = 0; rank < was.total.size(); ++rank)
      text += fmt::format("{:>6} {:>14.1f} {:>14.1f}\n", rank, was.total[rank] / ranks, is.total[rank] / ranks);
    return text;
  }

  static std::vector<Samples> samples(const moe::PlacementShape& shape, const Placements& after, const Traffic& was,
                                      const Traffic& is) {
    Samples placement{"placement/physical_to_logical", {}, {after.size(), static_cast<std::size_t>(shape.slots)}};
    for (const std::vector<int>& layer : after)
      placement.values.insert(placement.values.end(), layer.begin(), layer.end());
    const std::size_t ranks = was.total.size();
    return {std::move(placement),
            {"traffic/before", was.matrix(), {ranks, ranks}},
            {"traffic/after", is.matrix(), {ranks, ranks}}};
  }

  std::string load_, current_;
  moe::PlacementShape shape_;
  int max_moves_ = 0;
  bool refine_ = false, traffic_ = false;
};

}  // namespace

std::unique_ptr<Command> make_place() { return std::make_unique<PlaceCommand>(); }

}  // namespace supernode::launch
