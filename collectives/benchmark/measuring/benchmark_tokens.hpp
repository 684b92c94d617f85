#pragma once
// What the ranks of a benchmark dispatch, and what must come of it. Row elements are a function of (seed, rank, token,
// element), so every rank knows what the others sent.

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "collectives/token_exchange.hpp"
#include "collectives/traffic/routing.hpp"

namespace supernode::collectives {

/// The tokens of one rank.
class BenchmarkTokens {
 public:
  BenchmarkTokens(const ExchangeConfig& config, const RoutingConfig& routing, int rank, int n_tokens);

  int n_tokens() const { return n_tokens_; }
  void fill_row(int token, std::span<float> row) const;
  std::vector<float> rows() const;  ///< [n_tokens, hidden]
  /// The factor by which `rank`'s experts multiply a token: the sum of its weights there, in expert order; and whether
  /// it has any there.
  std::pair<float, bool> factor(int token, int rank, const ExpertPartition& experts) const;

  std::vector<std::int32_t> expert_ids;  ///< [n_tokens, topk]
  std::vector<float> weights;            ///< [n_tokens, topk]

 private:
  ExchangeConfig config_;
  std::uint64_t seed_;
  int rank_, n_tokens_;
};

/// What must arrive at one rank, and come back to it, when experts multiply rows by their weights. Built once for all
/// algorithms, since it does not depend on them. Building draws the routing of all ranks, no communication.
class Expectation {
 public:
  Expectation(const ExchangeConfig& config, const RoutingConfig& routing, int rank, int ranks, int n_tokens);

  /// Elements of the received rows, of whole rows and of weights, that are not what the sources sent.
  long long wrong_rows(const DispatchedTokens& tokens) const;
  /// Elements of `out` [n_tokens, hidden] that are not the sum over ranks.
  long long wrong_sums(std::span<const float> out) const;

 private:
  struct Row {
    int source, token;
    float factor;
  };
  std::size_t hidden() const { return static_cast<std::size_t>(config_.hidden); }

  ExchangeConfig config_;
  std::vector<BenchmarkTokens> sources_;  ///< [ranks], without rows
  std::vector<Row> rows_;                 ///< in the order of arrival
  std::vector<float> sums_;               ///< [n_tokens, hidden]
};

/// The weight by which this rank's experts multiply each received row.
std::vector<float> received_factors(const DispatchedTokens& tokens);

}  // namespace supernode::collectives
