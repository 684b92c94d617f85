#include "runtime/emulation/expert_load.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <queue>

#include <fmt/format.h>

#include "runtime/core/error.hpp"
#include "runtime/core/expert_counts.hpp"
#include "runtime/core/statistics.hpp"

namespace supernode::emulation {

ExpertLoad parse_expert_load(const std::string& text, const std::string& source) {
  ExpertLoad load{.layers = parse_expert_counts(text, source)};
  std::erase_if(load.layers, [](const std::vector<double>& counts) {
    return std::all_of(counts.begin(), counts.end(), [](double count) { return count == 0; });
  });
  if (load.layers.empty()) throw UsageError(fmt::format("{}: no layer has any counts", source));
  return load;
}

ExpertLoad zipf_load(int experts, double alpha) {
  std::vector<double> loads;
  for (int i = 0; i < experts; ++i) loads.push_back(std::pow(i + 1, -alpha));
  return {.layers = {std::move(loads)}};
}

std::span<const double> forecast_of(const ExpertLoad& load, std::size_t layer) {
  return load.forecast.empty() ? load.layers[layer] : load.forecast[layer % load.forecast.size()];
}

std::vector<int> replicate(std::span<const double> loads, int slots) {
  std::vector<int> copies(loads.size(), 1);
  using Item = std::pair<double, std::size_t>;
  const auto less = [](const Item& a, const Item& b) {
    return a.first != b.first ? a.first < b.first : a.second > b.second;
  };
  std::priority_queue<Item, std::vector<Item>, decltype(less)> heaviest(less);
  for (std::size_t i = 0; i < loads.size(); ++i) heaviest.push({loads[i], i});
  for (int extra = slots - static_cast<int>(loads.size()); extra > 0; --extra) {
    const std::size_t i = heaviest.top().second;
    heaviest.pop();
    ++copies[i];
    heaviest.push({loads[i] / copies[i], i});
  }
  return copies;
}

std::vector<int> place_experts(std::span<const double> loads, int slots, int dies) {
  expect(slots >= static_cast<int>(loads.size()) && dies > 0 && slots % dies == 0,
         "a placement needs a slot for each expert and as many on each die");
  const std::vector<int> copies = replicate(loads, slots);
  struct Piece {
    double load;  // of one copy of an expert
    int expert;
  };
  std::vector<Piece> pieces;
  for (std::size_t i = 0; i < loads.size(); ++i)
    pieces.insert(pieces.end(), static_cast<std::size_t>(copies[i]), {loads[i] / copies[i], static_cast<int>(i)});
  std::stable_sort(pieces.begin(), pieces.end(), [](const Piece& a, const Piece& b) { return a.load > b.load; });
  struct Bin {
    double load;
    int used, die;
    bool operator>(const Bin& o) const { return load != o.load ? load > o.load : die > o.die; }
  };
  std::priority_queue<Bin, std::vector<Bin>, std::greater<>> lightest;
  for (int die = 0; die < dies; ++die) lightest.push({0, 0, die});
  const int each = slots / dies;
  std::vector<int> placed(static_cast<std::size_t>(slots));
  for (const Piece& piece : pieces) {
    Bin bin = lightest.top();
    lightest.pop();
    placed[static_cast<std::size_t>(bin.die * each + bin.used)] = piece.expert;
    bin.load += piece.load;
    if (++bin.used < each) lightest.push(bin);
  }
  return placed;
}

double placed_skew(std::span<const double> forecast, std::span<const double> loads, int slots, int dies) {
  expect(forecast.size() == loads.size(), "loads are of as many experts as their forecast");
  const std::vector<int> placed = place_experts(forecast, slots, dies);
  std::vector<int> copies(loads.size());
  for (const int expert : placed) ++copies[static_cast<std::size_t>(expert)];
  double busiest = 0;
  for (auto slot = placed.begin(); slot != placed.end();) {
    double load = 0;
    for (const auto end = slot + slots / dies; slot != end; ++slot) {
      const auto expert = static_cast<std::size_t>(*slot);
      load += loads[expert] / copies[expert];
    }
    busiest = std::max(busiest, load);
  }
  const double total = std::accumulate(loads.begin(), loads.end(), 0.0);
  return total > 0 ? busiest * dies / total : 1;
}

double placed_skew(std::span<const double> loads, int slots, int dies) {
  return placed_skew(loads, loads, slots, dies);
}

double expected_maximum(int n) { return n <= 1 ? 0 : normal_quantile((n - 0.375) / (n + 0.25)); }

double expert_skew(const ExpertLoad& load, int slots, int dies, double rows_per_slot, double requests) {
  double placed = load.layers.empty() ? 1 : 0;
  for (std::size_t layer = 0; layer < load.layers.size(); ++layer)
    placed += placed_skew(forecast_of(load, layer), load.layers[layer], slots, dies) /
              static_cast<double>(load.layers.size());
  const double per_die = static_cast<double>(slots) / dies;
  const double variance =
      load.drift * load.drift + load.request_spread * load.request_spread / requests + 1 / rows_per_slot;
  const double spread = std::sqrt(variance / per_die) * expected_maximum(dies);
  // A die with more than it was placed for is seldom also the one that placement left busiest: squares add.
  return 1 + std::hypot(placed - 1, spread);
}

}  // namespace supernode::emulation
