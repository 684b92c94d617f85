#include "runtime/emulation/expert_load.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <queue>

#include <fmt/format.h>

#include "runtime/core/error.hpp"
#include "runtime/core/json.hpp"

namespace supernode::emulation {
namespace {

/// Inverse of the normal distribution, Acklam's rational approximation for the upper half; 1e-9 relative is not needed.
double normal_quantile(double p) {
  if (p < 0.5) return -normal_quantile(1 - p);
  if (p > 0.97575) {
    const double q = std::sqrt(-2 * std::log(1 - p));
    return -(((((-7.784894002430293e-03 * q - 3.223964580411365e-01) * q - 2.400758277161838) * q - 2.549732539343734) *
                  q +
              4.374664141464968) *
                 q +
             2.938163982698783) /
           ((((7.784695709041462e-03 * q + 3.224671290700398e-01) * q + 2.445134137142996) * q + 3.754408661907416) *
                q +
            1);
  }
  const double q = p - 0.5, r = q * q;
  return (((((-3.969683028665376e+01 * r + 2.209460984245205e+02) * r - 2.759285104469687e+02) * r +
            1.383577518672690e+02) *
               r -
           3.066479806614716e+01) *
              r +
          2.506628277459239) *
         q /
         (((((-5.447609879822406e+01 * r + 1.615858368580409e+02) * r - 1.556989798598866e+02) * r +
            6.680131188771972e+01) *
               r -
           1.328068155288572e+01) *
              r +
          1);
}

}  // namespace

ExpertLoad parse_expert_load(const std::string& text, const std::string& source) {
  const Json json = parse_json(text, source);
  const auto bad = [&](const std::string& why) { return UsageError(fmt::format("{}: {}", source, why)); };
  if (!json.is_object() || !json.contains("logical_count") || !json["logical_count"].is_array())
    throw bad("expected {\"logical_count\": [[..]..]}");
  ExpertLoad load;
  for (const Json& row : json["logical_count"]) {
    if (!row.is_array() || row.empty()) throw bad("a layer of logical_count is not a list of counts");
    std::vector<double> counts;
    for (const Json& count : row) {
      if (!count.is_number() || !(count.get<double>() >= 0)) throw bad(fmt::format("{} is not a count", count.dump()));
      counts.push_back(count.get<double>());
    }
    if (std::accumulate(counts.begin(), counts.end(), 0.0) <= 0) continue;
    if (!load.layers.empty() && load.layers[0].size() != counts.size())
      throw bad(fmt::format("layers have {} and {} experts", load.layers[0].size(), counts.size()));
    load.layers.push_back(std::move(counts));
  }
  if (load.layers.empty()) throw bad("no layer has any counts");
  return load;
}

ExpertLoad zipf_load(int experts, double alpha) {
  std::vector<double> loads;
  for (int i = 0; i < experts; ++i) loads.push_back(std::pow(i + 1, -alpha));
  return {{std::move(loads)}, 0, 0};
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

double placed_skew(std::span<const double> loads, int slots, int dies) {
  expect(slots >= static_cast<int>(loads.size()) && dies > 0 && slots % dies == 0,
         "a placement needs a slot for each expert and as many on each die");
  const std::vector<int> copies = replicate(loads, slots);
  std::vector<double> pieces;
  for (std::size_t i = 0; i < loads.size(); ++i) pieces.insert(pieces.end(), copies[i], loads[i] / copies[i]);
  std::sort(pieces.begin(), pieces.end(), std::greater<>());
  struct Bin {
    double load;
    int used, die;
    bool operator>(const Bin& o) const { return load != o.load ? load > o.load : die > o.die; }
  };
  std::priority_queue<Bin, std::vector<Bin>, std::greater<>> lightest;
  for (int die = 0; die < dies; ++die) lightest.push({0, 0, die});
  double busiest = 0;
  for (const double piece : pieces) {
    Bin bin = lightest.top();
    lightest.pop();
    bin.load += piece;
    busiest = std::max(busiest, bin.load);
    if (++bin.used < slots / dies) lightest.push(bin);
  }
  const double total = std::accumulate(loads.begin(), loads.end(), 0.0);
  return total > 0 ? busiest * dies / total : 1;
}

double expected_maximum(int n) { return n <= 1 ? 0 : normal_quantile((n - 0.375) / (n + 0.25)); }

double expert_skew(const ExpertLoad& load, int slots, int dies, double rows_per_slot, double requests) {
  double placed = load.layers.empty() ? 1 : 0;
  for (const auto& layer : load.layers)
    placed += placed_skew(layer, slots, dies) / static_cast<double>(load.layers.size());
  const double per_die = static_cast<double>(slots) / dies;
  const double variance =
      load.drift * load.drift + load.request_spread * load.request_spread / requests + 1 / rows_per_slot;
  const double spread = std::sqrt(variance / per_die) * expected_maximum(dies);
  // A die with more than it was placed for is seldom also the one that placement left busiest: squares add.
  return 1 + std::hypot(placed - 1, spread);
}

}  // namespace supernode::emulation
