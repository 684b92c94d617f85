#include "runtime/emulation/routing.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <stdexcept>

#include <fmt/format.h>

#include "runtime/core/error.hpp"
#include "runtime/core/random.hpp"
#include "runtime/core/statistics.hpp"

namespace supernode::emulation {
namespace {

/// Independent streams of one seed.
enum class Purpose : std::uint64_t { drift = 1, preferences, choices };

std::uint64_t key(std::uint64_t seed, Purpose purpose) {
  return mix64(seed ^ mix64(static_cast<std::uint64_t>(purpose)));
}
std::uint64_t key(std::uint64_t outer, std::uint64_t inner) { return mix64(outer ^ mix64(inner)); }

/// What each slot holds and how much it is used.
struct Slots {
  std::vector<std::uint32_t> experts;  ///< [slots]
  std::vector<double> shares;          ///< [slots], relative
};

Slots equal_slots(std::size_t count) {
  Slots slots{std::vector<std::uint32_t>(count), std::vector<double>(count, 1.0)};
  std::iota(slots.experts.begin(), slots.experts.end(), 0u);
  return slots;
}

Slots placed_slots(std::span<const double> loads, int count, int dies) {
  Slots slots;
  const std::vector<int> experts = place_experts(loads, count, dies);
  std::vector<int> copies(loads.size());
  for (const int expert : experts) ++copies[static_cast<std::size_t>(expert)];
  for (const int expert : experts) {
    const auto i = static_cast<std::size_t>(expert);
    slots.experts.push_back(static_cast<std::uint32_t>(expert));
    slots.shares.push_back(loads[i] / copies[i]);
  }
  return slots;
}

void apply_drift(std::vector<double>& shares, double drift, std::uint64_t key) {
  if (!(drift > 0)) return;
  const std::vector<double> before = shares;
  Random random(key);
  for (double& share : shares) share *= std::max(0.0, 1 + drift * normal_quantile(random.uniform() + 0x1.0p-54));
  // So large a drift that it took all slots away says nothing.
  if (!(std::accumulate(shares.begin(), shares.end(), 0.0) > 0)) shares = before;
}

/// Weights of single draws by which slots are used as their shares say. A token chooses an expert once at most, so with
/// weights as the shares the busiest experts would get too little. Drawing until topk are distinct is a race of
/// exponential clocks with the weights as rates: a clock that shall ring in time with probability p has the rate
/// -log(1 - p).
std::vector<double> draw_weights(const Slots& slots, int topk, double spread) {
  const double total = std::accumulate(slots.shares.begin(), slots.shares.end(), 0.0);
  std::vector<double> of_expert(slots.shares.size());
  std::vector<int> copies(slots.shares.size());
  for (std::size_t slot = 0; slot < slots.shares.size(); ++slot) {
    of_expert[slots.experts[slot]] += slots.shares[slot] / total;
    ++copies[slots.experts[slot]];
  }
  std::vector<double> weights;
  for (std::size_t slot = 0; slot < slots.shares.size(); ++slot) {
    const std::uint32_t expert = slots.experts[slot];
    // Requests that choose it at all are fewer, and choose it the more often.
    const double expected = topk * of_expert[expert] * (1 + spread * spread / copies[expert]);
    const double rate = -std::log1p(-std::min(expected, 0.999));
    weights.push_back(expected > 0 ? slots.shares[slot] * rate / expected : 0);
  }
  return weights;
}

/// The choices of one token in one layer.
class Choices {
 public:
  /// @param seen [experts] other values than `stamp` @param rows [slots]
  Choices(int topk, std::span<const std::uint32_t> experts, std::uint32_t* seen, std::uint32_t stamp,
          std::int32_t* rows)
      : missing_(topk), experts_(experts.data()), seen_(seen), stamp_(stamp), rows_(rows) {}

  bool complete() const { return missing_ == 0; }
  /// Chooses the slot unless its expert has been chosen. @pre !complete()
  void offer(std::uint32_t slot) {
    std::uint32_t& seen = seen_[experts_[slot]];
    if (seen == stamp_) return;
    seen = stamp_;
    ++rows_[slot];
    --missing_;
  }
  /// Whether no slot is left to choose of those that `favours(slot)` holds for. O(slots)
  template <class Favours>
  bool exhausted(std::size_t slots, Favours favours) const {
    for (std::uint32_t slot = 0; slot < slots; ++slot)
      if (favours(slot) && seen_[experts_[slot]] != stamp_) return false;
    return true;
  }

 private:
  int missing_;
  const std::uint32_t* experts_;
  std::uint32_t* seen_;
  std::uint32_t stamp_;
  std::int32_t* rows_;
};

/// How long to draw for one token. Each random number is two draws.
struct DrawLimits {
  int at_once;  ///< random numbers that are probably enough
  int most;     ///< of them, before preferences, and then the load, are given up
};
constexpr int kMostAtOnce = 32;

DrawLimits draw_limits(int topk, double spread) {
  // More than the mean, so that few tokens draw twice: an unforeseen turn costs as much as many draws.
  const double mean = topk * (1 + spread * spread) / 2;
  return {.at_once = std::clamp(static_cast<int>(std::ceil(1.4 * mean)), 1, kMostAtOnce), .most = 64 * topk};
}

/// Offers slots as drawn, those that `favours(slot)` holds for, until all is chosen.
template <class Favours>
void offer_draws(Choices& choices, const AliasTable& slots, Random& random, DrawLimits limits, Favours favours) {
  std::array<std::uint32_t, 2 * kMostAtOnce> favoured;
  const int turns = (limits.most + limits.at_once - 1) / limits.at_once;
  for (int turn = 0; turn < turns && !choices.complete(); ++turn) {
    // Where a request favours hardly as many experts as a token chooses, nearly all of its tokens have none left. The
    // numbers that could not bring one are left out, so that what follows does not depend on when this is noticed.
    if (turn % 4 == 3 && choices.exhausted(slots.size(), favours))
      return random.discard(static_cast<std::uint64_t>(turns - turn) * static_cast<std::uint64_t>(limits.at_once));
    // Whether a slot is favoured cannot be predicted, so that there is no branch on it.
    std::size_t count = 0;
    for (int i = 0; i < limits.at_once; ++i) {
      const std::uint64_t bits = random();
      const std::uint32_t one = slots(static_cast<std::uint32_t>(bits >> 32)),
                          other = slots(static_cast<std::uint32_t>(bits));
      favoured[count] = one;
      count += favours(one);
      favoured[count] = other;
      count += favours(other);
    }
    for (std::size_t i = 0; i < count && !choices.complete(); ++i) choices.offer(favoured[i]);
  }
}

/// For a token that found too few favoured slots.
[[gnu::noinline]] void choose_others(Choices choices, const AliasTable& slots, std::size_t count, Random random,
                                     DrawLimits limits) {
  offer_draws(choices, slots, random, limits, [](std::uint32_t) { return true; });
  const std::uint64_t first = random.below(count);
  for (std::size_t i = 0; i < count && !choices.complete(); ++i)
    choices.offer(static_cast<std::uint32_t>((first + i) % count));
}

}  // namespace

/// What one call of draw() works with.
struct Routing::Draw {
  DrawLimits limits;
  std::vector<std::uint32_t> seen = {};  ///< [experts] the last token that chose it, by a number of its own
  std::uint32_t tokens = 0;
  std::int32_t* rows = nullptr;  ///< of the layer
};

Routing::Routing(const ModelShape& model, const ExpertLayout& layout, const ExpertLoad& load, std::uint64_t seed,
                 int layers)
    : slots_(static_cast<std::size_t>(layout.slots(model))),
      shared_dies_(static_cast<std::size_t>(layout.shared_dies)),
      shared_experts_(model.shared_experts),
      record_slots_(static_cast<std::size_t>(record_slots(layout, model))),
      spread_(load.request_spread) {
  layout.check(model);
  if (layers < 0 || (layers > 0 && model.experts < 1))
    throw std::invalid_argument(fmt::format("routing of {} layers over {} experts", layers, model.experts));
  for (const std::vector<double>& loads : load.layers) {
    if (loads.size() != static_cast<std::size_t>(model.experts))
      throw std::invalid_argument(fmt::format("loads of {} experts for a model of {}", loads.size(), model.experts));
    if (!(std::accumulate(loads.begin(), loads.end(), 0.0) > 0))
      throw std::invalid_argument("loads of a layer whose experts have none");
  }
  // Odd ones, so that each value of a product is as likely.
  Random random(key(seed, Purpose::preferences));
  for (std::size_t slot = 0; slot < slots_; ++slot) multipliers_.push_back(random() | 1);
  topk_ = std::min(model.topk, load.layers.empty() ? layout.slots(model) : model.experts);
  for (std::size_t layer = 0; layer < static_cast<std::size_t>(layers); ++layer) {
    Slots slots = load.layers.empty() ? equal_slots(slots_)
                                      : placed_slots(load.layers[layer % load.layers.size()], layout.slots(model),
                                                     layout.routed_dies());
    apply_drift(slots.shares, load.drift, key(key(seed, Purpose::drift), layer));
    layers_.push_back({.choices = key(key(seed, Purpose::choices), layer),
                       .preferences = key(key(seed, Purpose::preferences), layer),
                       .slots = AliasTable(draw_weights(slots, topk_, spread_)),
                       .experts = std::move(slots.experts)});
  }
}

template <class Favours>
void Routing::draw_tokens(const Layer& layer, const TokenRange& range, Favours favours, Draw& draw) const {
  const std::uint64_t request = key(layer.choices, range.request);
  for (int i = 0; i < range.count; ++i) {
    Random random(request, static_cast<std::uint64_t>(range.first + i));
    Choices choices(topk_, layer.experts, draw.seen.data(), ++draw.tokens, draw.rows);
    offer_draws(choices, layer.slots, random, draw.limits, favours);
    if (!choices.complete()) choose_others(choices, layer.slots, slots_, random, draw.limits);
  }
}

void Routing::draw(std::span<const TokenRange> tokens, std::span<std::int32_t> rows) const {
  expect(rows.size() == record_size(), "rows of a record are of all its layers and slots");
  Draw draw{.limits = draw_limits(topk_, spread_)};
  // Of 2^64 values; to 53 bits, and never all of them.
  const std::uint64_t favoured = static_cast<std::uint64_t>(std::min(0x1.0p53 / (1 + spread_ * spread_), 0x1.0p53 - 1))
                                 << 11;
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    const Layer& layer = layers_[i];
    draw.rows = rows.data() + i * record_slots_;
    draw.seen.assign(slots_, 0);
    draw.tokens = 0;
    for (const TokenRange& range : tokens) {
      if (!(spread_ > 0)) {
        draw_tokens(
            layer, range, [](std::uint32_t) { return true; }, draw);
        continue;
      }
      // A slot's multiplier times the request's key: random enough, and a fraction of what a hash costs.
      const std::uint64_t request = key(layer.preferences, range.request);
      draw_tokens(
          layer, range, [&](std::uint32_t slot) { return request * multipliers_[slot] < favoured; }, draw);
    }
  }
}

void Routing::add_shared(int sender, int tokens, std::span<std::int32_t> rows) const {
  expect(rows.size() == record_size(), "rows of a record are of all its layers and slots");
  if (shared_dies_ == 0 || tokens == 0) return;
  // All shared dies get equally many. What is left begins where it would end for the sender before, with as many tokens.
  const auto count = static_cast<std::size_t>(tokens);
  const std::size_t each = count / shared_dies_, left = count % shared_dies_;
  const std::size_t first = static_cast<std::size_t>(sender) * left % shared_dies_;
  for (std::size_t layer = 0; layer < layers_.size(); ++layer) {
    std::int32_t* shared = rows.data() + layer * record_slots_ + slots_;
    for (std::size_t j = 0; j < shared_dies_; ++j)
      shared[(first + j) % shared_dies_] += static_cast<std::int32_t>(each + (j < left ? 1 : 0)) * shared_experts_;
  }
}

}  // namespace supernode::emulation
