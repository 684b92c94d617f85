#include "collectives/benchmark.hpp"

#include <algorithm>
#include <utility>

#include "collectives/internal/local_work.hpp"
#include "runtime/core/clock.hpp"
#include "runtime/core/error.hpp"
#include "runtime/core/mpi_call.hpp"
#include "runtime/core/random.hpp"

namespace supernode::collectives {
namespace {

/// What a rank dispatches in the benchmark, known to every rank: row elements are a function of (seed, rank, token,
/// element).
class BenchmarkTokens {
 public:
  BenchmarkTokens(const BenchmarkCase& bench, int rank)
      : config_(bench.exchange), seed_(bench.routing.seed), rank_(rank), n_tokens_(bench.num_tokens) {
    const auto places = static_cast<std::size_t>(n_tokens_) * static_cast<std::size_t>(config_.topk);
    expert_ids.resize(places);
    weights.resize(places);
    draw_routing(expert_popularity(bench.routing, config_.num_experts), seed_, rank, config_.topk, expert_ids, weights);
  }

  void fill_row(int token, std::span<float> row) const {
    Random random(seed_, mix64(static_cast<std::uint64_t>(rank_) << 32 | static_cast<std::uint32_t>(token)));
    for (float& x : row) x = static_cast<float>(random.uniform() - 0.5);
  }

  std::vector<float> rows() const {
    const auto hidden = static_cast<std::size_t>(config_.hidden);
    std::vector<float> all(static_cast<std::size_t>(n_tokens_) * hidden);
    for (int token = 0; token < n_tokens_; ++token)
      fill_row(token, std::span(all).subspan(static_cast<std::size_t>(token) * hidden, hidden));
    return all;
  }

  /// The factor by which `rank`'s experts multiply a token: the sum of its weights there, in expert order. 0 when it
  /// has none.
  std::pair<float, bool> factor(int token, int rank, const ExpertPartition& experts) const {
    std::vector<std::pair<int, float>> mine;
    for (int k = 0; k < config_.topk; ++k) {
      const std::size_t at =
          static_cast<std::size_t>(token) * static_cast<std::size_t>(config_.topk) + static_cast<std::size_t>(k);
      if (experts.rank_of(expert_ids[at]) == rank) mine.emplace_back(expert_ids[at], weights[at]);
    }
    std::sort(mine.begin(), mine.end());
    float sum = 0;
    for (const auto& [expert, weight] : mine) sum += weight;
    return {sum, !mine.empty()};
  }

  std::vector<std::int32_t> expert_ids;
  std::vector<float> weights;

 private:
  const ExchangeConfig& config_;
  std::uint64_t seed_;
  int rank_, n_tokens_;
};

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

/// The sums of experts that multiply a row by its weight.
std::vector<float> weighted_rows(const DispatchedTokens& tokens) {
  const auto hidden = static_cast<std::size_t>(tokens.hidden());
  std::vector<float> factors(static_cast<std::size_t>(tokens.n_rows()), 0.0f);
  for (int e = 0; e < tokens.n_local_experts(); ++e)
    for (std::size_t i = 0; i < tokens.expert_rows(e).size(); ++i)
      factors[static_cast<std::size_t>(tokens.expert_rows(e)[i])] += tokens.expert_weights(e)[i];
  std::vector<float> sums(factors.size() * hidden);
  tokens.copy_rows_f32(sums);
  for (std::size_t i = 0; i < sums.size(); ++i) sums[i] *= factors[i / hidden];
  return sums;
}

/// Elements of the received rows, and whole rows, that are not what the sources sent.
long long check_rows(const DispatchedTokens& tokens, const BenchmarkCase& bench, const Communicator& comm,
                     const ExpertPartition& experts) {
  const auto hidden = static_cast<std::size_t>(bench.exchange.hidden);
  std::vector<float> sent(hidden), expected(hidden), got(hidden);
  std::vector<std::byte> scratch;
  long long wrong = 0;
  for (int source = 0; source < comm.size(); ++source) {
    const BenchmarkTokens theirs(bench, source);
    int row = tokens.first_row_of(source);
    const int end = tokens.first_row_of(source + 1);
    for (int token = 0; token < bench.num_tokens; ++token) {
      if (!theirs.factor(token, comm.rank(), experts).second) continue;
      if (row == end) {
        wrong += static_cast<long long>(hidden);
        continue;
      }
      theirs.fill_row(token, sent);
      travel(bench.exchange.dispatch_payload, sent, scratch, expected);
      tokens.copy_row_f32(row++, got);
      wrong += differences(expected, got);
    }
    wrong += static_cast<long long>(hidden) * (end - row);
  }
  return wrong;
}

long long check_out(std::span<const float> out, const BenchmarkTokens& mine, const BenchmarkCase& bench,
                    const ExpertPartition& experts) {
  const auto hidden = static_cast<std::size_t>(bench.exchange.hidden);
  std::vector<float> sent(hidden), row(hidden), sum(hidden), contribution(hidden), expected(hidden);
  std::vector<std::byte> scratch;
  long long wrong = 0;
  for (int token = 0; token < bench.num_tokens; ++token) {
    mine.fill_row(token, sent);
    travel(bench.exchange.dispatch_payload, sent, scratch, row);
    bool first = true;
    for (int rank = 0; rank < experts.ranks(); ++rank) {
      const auto [factor, any] = mine.factor(token, rank, experts);
      if (!any) continue;
      for (std::size_t i = 0; i < hidden; ++i) sum[i] = row[i] * factor;
      travel(bench.exchange.combine_payload, sum, scratch, contribution);
      for (std::size_t i = 0; i < hidden; ++i) expected[i] = first ? contribution[i] : expected[i] + contribution[i];
      first = false;
    }
    wrong += differences(expected, out.subspan(static_cast<std::size_t>(token) * hidden, hidden));
  }
  return wrong;
}

std::uint64_t total(const std::vector<std::uint64_t>& bytes) {
  std::uint64_t sum = 0;
  for (const std::uint64_t b : bytes) sum += b;
  return sum;
}

/// Times of `iterations` calls, each the maximum over ranks; `body` returns this rank's seconds.
template <class Body>
std::vector<double> measure(const Communicator& comm, int warmup, int iterations, Body&& body) {
  for (int i = 0; i < warmup; ++i) body();
  std::vector<double> us(static_cast<std::size_t>(iterations));
  for (double& t : us) t = body() * 1e6;
  SUPERNODE_MPI(MPI_Allreduce(MPI_IN_PLACE, us.data(), iterations, MPI_DOUBLE, MPI_MAX, comm.get()));
  return us;
}

}  // namespace

Operation parse_operation(std::string_view name) {
  for (const Operation operation : {Operation::dispatch, Operation::combine, Operation::roundtrip})
    if (name_of(operation) == name) return operation;
  throw UsageError("operation '" + std::string(name) + "' unknown; known: dispatch, combine, roundtrip");
}

BenchmarkResult run_benchmark(const Communicator& comm, const BenchmarkCase& bench) {
  TokenExchange exchange(comm, bench.exchange);
  const ExpertPartition& experts = exchange.experts();
  const BenchmarkTokens mine(bench, comm.rank());
  const std::vector<float> rows = mine.rows();
  std::vector<float> out(rows.size());
  BenchmarkResult result;
  result.algorithm = exchange.algorithm();

  // One checked round; its sums serve all the others.
  DispatchedTokens tokens = exchange.dispatch(rows, mine.expert_ids, mine.weights);
  std::vector<int> rows_from(static_cast<std::size_t>(comm.size()));
  for (int rank = 0; rank < comm.size(); ++rank)
    rows_from[rank] = tokens.first_row_of(rank + 1) - tokens.first_row_of(rank);
  const std::vector<float> sums = weighted_rows(tokens);
  if (bench.check) result.wrong = check_rows(tokens, bench, comm, experts);
  exchange.combine(std::move(tokens), sums, out);
  if (bench.check) result.wrong = comm.sum(result.wrong + check_out(out, mine, bench, experts));

  const auto timed = [&](auto&& step) {
    comm.barrier();
    const WallTime start = wall_now();
    step();
    return (wall_now() - start).value;
  };
  // Both directions run in every iteration, timed or not, so that caches are in the same state for all operations.
  const auto timed_round = [&](auto&& dispatch, auto&& combine) {
    double seconds = 0;
    switch (bench.operation) {
      case Operation::dispatch:
        seconds = timed(dispatch);
        combine();
        break;
      case Operation::combine:
        dispatch();
        seconds = timed(combine);
        break;
      case Operation::roundtrip:
        seconds = timed([&] {
          dispatch();
          combine();
        });
    }
    return seconds;
  };
  result.wall_us = measure(comm, bench.warmup, bench.iterations, [&] {
    return timed_round([&] { tokens = exchange.dispatch(rows, mine.expert_ids, mine.weights); },
                       [&] { exchange.combine(std::move(tokens), sums, out); });
  });
  if (bench.check) result.wrong += comm.sum(check_out(out, mine, bench, experts));

  LocalWork local(bench.exchange, comm.rank(), rows_from);
  result.limit_us = measure(comm, bench.warmup, bench.iterations, [&] {
    return timed_round(
        [&] {
          local.dispatch({rows, mine.expert_ids, mine.weights});
        },
        [&] { local.combine(sums, out); });
  });

  const ExchangeStatistics& statistics = exchange.statistics();
  std::uint64_t sent = 0, to_others = 0, from_others = 0;
  const auto add = [&](const std::vector<std::uint64_t>& to, const std::vector<std::uint64_t>& from) {
    const auto self = static_cast<std::size_t>(comm.rank());
    sent += total(to);
    to_others += total(to) - to[self];
    from_others += total(from) - from[self];
  };
  if (bench.operation != Operation::combine) add(statistics.dispatch_bytes_to, statistics.dispatch_bytes_from);
  if (bench.operation != Operation::dispatch) add(statistics.combine_bytes_to, statistics.combine_bytes_from);
  result.bytes_per_rank = static_cast<std::uint64_t>(comm.max(static_cast<long long>(sent)));
  result.busiest_bytes = static_cast<std::uint64_t>(comm.max(static_cast<long long>(std::max(to_others, from_others))));
  return result;
}

}  // namespace supernode::collectives
