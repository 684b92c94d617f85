#include "collectives/benchmark/measuring/benchmark_tokens.hpp"

#include <algorithm>

#include "runtime/core/quantise.hpp"
#include "runtime/core/random.hpp"

namespace supernode::collectives {
namespace {

/// A row after its travel.
void travel(Payload payload, std::span<const float> row, std::vector<std::byte>& scratch, std::span<float> out) {
  scratch.resize(row.size() * sizeof(float));
  std::byte* const to[] = {scratch.data()};
  const RowScale scale = row_scale(payload, row);
  write_row(payload, row, scale, to);
  read_row(payload, scratch.data(), scale.scale, out);
}

long long differences(std::span<const float> a, std::span<const float> b) {
  long long n = 0;
  for (std::size_t i = 0; i < a.size(); ++i) n += a[i] != b[i];
  return n;
}

}  // namespace

BenchmarkTokens::BenchmarkTokens(const ExchangeConfig& config, const RoutingConfig& routing, int rank, int n_tokens)
    : config_(config), seed_(routing.seed), rank_(rank), n_tokens_(n_tokens) {
  const auto places = static_cast<std::size_t>(n_tokens_) * static_cast<std::size_t>(config_.topk);
  expert_ids.resize(places);
  weights.resize(places);
  route_tokens(routing, config_.num_experts, rank, config_.topk, expert_ids, weights);
}

void BenchmarkTokens::fill_row(int token, std::span<float> row) const {
  Random random(seed_, mix64(static_cast<std::uint64_t>(rank_) << 32 | static_cast<std::uint32_t>(token)));
  for (float& x : row) x = static_cast<float>(random.uniform() - 0.5);
}

std::vector<float> BenchmarkTokens::rows() const {
  const auto hidden = static_cast<std::size_t>(config_.hidden);
  std::vector<float> all(static_cast<std::size_t>(n_tokens_) * hidden);
  for (int token = 0; token < n_tokens_; ++token)
    fill_row(token, std::span(all).subspan(static_cast<std::size_t>(token) * hidden, hidden));
  return all;
}

std::pair<float, bool> BenchmarkTokens::factor(int token, int rank, const ExpertPartition& experts) const {
  const auto topk = static_cast<std::size_t>(config_.topk);
  std::vector<std::pair<int, float>> mine;
  for (std::size_t at = static_cast<std::size_t>(token) * topk, end = at + topk; at < end; ++at)
    if (expert_ids[at] >= 0 && experts.rank_of(expert_ids[at]) == rank) mine.emplace_back(expert_ids[at], weights[at]);
  std::sort(mine.begin(), mine.end());
  float sum = 0;
  for (const auto& [expert, weight] : mine) sum += weight;
  return {sum, !mine.empty()};
}

Expectation::Expectation(const ExchangeConfig& config, const RoutingConfig& routing, int rank, int ranks, int n_tokens)
    : config_(config) {
  const ExpertPartition experts(config.num_experts, ranks);
  sources_.reserve(static_cast<std::size_t>(ranks));
  for (int source = 0; source < ranks; ++source) {
    const BenchmarkTokens& theirs = sources_.emplace_back(config, routing, source, n_tokens);
    for (int token = 0; token < n_tokens; ++token)
      if (const auto [factor, any] = theirs.factor(token, rank, experts); any) rows_.push_back({source, token, factor});
  }

  const BenchmarkTokens& mine = sources_[static_cast<std::size_t>(rank)];
  sums_.resize(static_cast<std::size_t>(n_tokens) * hidden());
  std::vector<float> sent(hidden()), row(hidden()), scaled(hidden()), contribution(hidden());
  std::vector<std::byte> scratch;
  for (int token = 0; token < n_tokens; ++token) {
    mine.fill_row(token, sent);
    travel(config.dispatch_payload, sent, scratch, row);
    float* const sum = sums_.data() + static_cast<std::size_t>(token) * hidden();
    bool first = true;
    for (int peer = 0; peer < ranks; ++peer) {
      const auto [factor, any] = mine.factor(token, peer, experts);
      if (!any) continue;
      for (std::size_t i = 0; i < hidden(); ++i) scaled[i] = row[i] * factor;
      travel(config.combine_payload, scaled, scratch, contribution);
      for (std::size_t i = 0; i < hidden(); ++i) sum[i] = first ? contribution[i] : sum[i] + contribution[i];
      first = false;
    }
  }
}

long long Expectation::wrong_rows(const DispatchedTokens& tokens) const {
  const auto n_rows = static_cast<std::size_t>(tokens.n_rows());
  if (n_rows != rows_.size()) return static_cast<long long>(std::max(n_rows, rows_.size()) * hidden());
  const std::vector<float> factors = received_factors(tokens);
  std::vector<float> sent(hidden()), expected(hidden()), got(hidden());
  std::vector<std::byte> scratch;
  long long wrong = 0;
  for (std::size_t i = 0; i < n_rows; ++i) {
    const Row& row = rows_[i];
    const int at = static_cast<int>(i);
    if (at < tokens.first_row_of(row.source) || at >= tokens.first_row_of(row.source + 1)) {
      wrong += static_cast<long long>(hidden());
      continue;
    }
    sources_[static_cast<std::size_t>(row.source)].fill_row(row.token, sent);
    travel(config_.dispatch_payload, sent, scratch, expected);
    tokens.copy_row_f32(at, got);
    wrong += differences(expected, got) + (factors[i] != row.factor);
  }
  return wrong;
}

long long Expectation::wrong_sums(std::span<const float> out) const { return differences(sums_, out); }

std::vector<float> received_factors(const DispatchedTokens& tokens) {
  std::vector<float> factors(static_cast<std::size_t>(tokens.n_rows()), 0.0f);
  for (int e = 0; e < tokens.n_local_experts(); ++e)
    for (std::size_t i = 0; i < tokens.expert_rows(e).size(); ++i)
      factors[static_cast<std::size_t>(tokens.expert_rows(e)[i])] += tokens.expert_weights(e)[i];
  return factors;
}

}  // namespace supernode::collectives
