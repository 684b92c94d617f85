#include "moe/operators/gate.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

namespace supernode::moe {
namespace {
constexpr float lowest = -std::numeric_limits<float>::infinity();

/// Indices of the `n` largest values, best first; ties by index. Few of many: most values are compared once.
void best_first(std::vector<int>& best, std::span<const float> values, int n) {
  best.clear();
  const auto value = [&](int i) { return values[static_cast<std::size_t>(i)]; };
  for (int i = 0; i < static_cast<int>(values.size()); ++i) {
    if (static_cast<int>(best.size()) < n) {
      best.push_back(i);
    } else if (value(i) > value(best.back())) {
      best.back() = i;
    } else {
      continue;
    }
    for (auto place = best.end() - 1; place != best.begin() && value(*place) > value(place[-1]); --place)
      std::swap(*place, place[-1]);
  }
}

}  // namespace

Gate::Gate(const ModelConfig& c)
    : n_experts_(c.n_routed_experts),
      topk_(c.topk),
      n_groups_(c.n_groups),
      topk_groups_(c.topk_groups),
      scoring_(c.scoring),
      method_(c.method),
      normalise_(c.normalise_weights),
      scaling_(static_cast<float>(c.routed_scaling)),
      scores_(static_cast<std::size_t>(c.n_routed_experts)),
      choice_(scores_.size()),
      group_scores_(static_cast<std::size_t>(c.n_groups)) {}

void Gate::mask_groups() {
  const int size = n_experts_ / n_groups_;
  for (int group = 0; group < n_groups_; ++group) {
    const float* member = choice_.data() + static_cast<std::ptrdiff_t>(group) * size;
    float best = lowest, second = lowest;
    for (int i = 0; i < size; ++i) {
      second = std::max(second, std::min(best, member[i]));
      best = std::max(best, member[i]);
    }
    group_scores_[static_cast<std::size_t>(group)] = method_ == GateMethod::noaux_tc ? best + second : best;
  }
  best_first(best_, group_scores_, topk_groups_);
  for (int group = 0; group < n_groups_; ++group)
    if (std::find(best_.begin(), best_.end(), group) == best_.end())
      std::fill_n(choice_.begin() + static_cast<std::ptrdiff_t>(group) * size, size, lowest);
}

void Gate::select(std::span<const float> logits, std::span<const float> bias, std::span<std::int32_t> ids,
                  std::span<float> weights) {
  if (scoring_ == GateScoring::sigmoid) {
    for (std::size_t e = 0; e < scores_.size(); ++e) scores_[e] = 1.0f / (1.0f + std::exp(-logits[e]));
  } else {
    float top = lowest;
    for (const float logit : logits) top = logit > top ? logit : top;
    double sum = 0;
    for (std::size_t e = 0; e < scores_.size(); ++e) {
      scores_[e] = logits[e] == top ? 1 : std::exp(logits[e] - top);
      if (!std::isnan(scores_[e])) sum += scores_[e];
    }
    for (float& score : scores_) score = static_cast<float>(score / sum);
  }
  for (std::size_t e = 0; e < scores_.size(); ++e) {
    const float biased = bias.empty() ? scores_[e] : scores_[e] + bias[e];
    choice_[e] = std::isnan(biased) ? lowest : biased;
  }
  if (method_ != GateMethod::greedy && n_groups_ > 1) mask_groups();
  best_first(best_, choice_, topk_);

  float sum = 0;
  for (std::size_t k = 0; k < ids.size(); ++k) {
    ids[k] = best_[k];
    weights[k] = scores_[static_cast<std::size_t>(best_[k])];
    sum += weights[k];
  }
  const float scale = normalise_ ? scaling_ / (sum + 1e-20f) : scaling_;
  for (float& weight : weights) weight *= scale;
}

}  // namespace supernode::moe
