#include "collectives/benchmark/benchmark.hpp"

#include <algorithm>
#include <functional>
#include <memory>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "collectives/benchmark/measuring/benchmark_tokens.hpp"
#include "collectives/benchmark/measuring/figures.hpp"
#include "collectives/benchmark/measuring/injected_fault.hpp"
#include "collectives/benchmark/measuring/local_work.hpp"
#include "collectives/benchmark/measuring/modelled_phase.hpp"
#include "collectives/benchmark/measuring/wait_report.hpp"
#include "runtime/core/clock.hpp"
#include "runtime/core/error.hpp"
#include "runtime/core/memory_use.hpp"
#include "runtime/core/mpi/repeat.hpp"
#include "runtime/core/statistics.hpp"

namespace supernode::collectives {
namespace {

/// What all algorithms of a case share.
struct Shared {
  Shared(const Communicator& communicator, const BenchmarkCase& benchmark_case)
      : comm(communicator),
        bench(benchmark_case),
        mine(bench.exchange, bench.routing, comm.rank(), bench.num_tokens),
        rows(mine.rows()),
        out(rows.size()) {
    if (bench.options.check)
      expected.emplace(bench.exchange, bench.routing, comm.rank(), comm.size(), bench.num_tokens);
  }

  const Communicator& comm;
  const BenchmarkCase& bench;
  BenchmarkTokens mine;
  std::vector<float> rows, out;
  std::vector<float> sums;     ///< [rows received, hidden], of the first algorithm, and all must be alike
  std::vector<int> rows_from;  ///< [ranks], likewise
  std::optional<Expectation> expected;
};

/// Runs both directions, and what the operation asks for through `timed`. Both run in every round, so that caches are
/// in the same state for all operations.
template <class Timed, class Dispatch, class Combine>
double round_of(Operation operation, Timed&& timed, Dispatch&& dispatch, Combine&& combine) {
  double seconds = 0;
  switch (operation) {
    case Operation::dispatch:
      seconds = timed(dispatch);
      combine();
      break;
    case Operation::combine:
      dispatch();
      seconds = timed(combine);
      break;
    default:
      seconds = timed([&] {
        dispatch();
        combine();
      });
  }
  return seconds;
}

ExchangeConfig with(ExchangeConfig config, const std::string& algorithm) {
  config.algorithm = algorithm;
  return config;
}

/// One algorithm under measurement.
class Candidate {
 public:
  Candidate(Shared& shared, const std::string& algorithm)
      : shared_(shared), exchange_(shared.comm, with(shared.bench.exchange, algorithm)), waits_(shared.comm) {
    result_.algorithm = exchange_.algorithm();
    result_.requested = algorithm;
    result_.rule = exchange_.chosen_by();
    result_.buffer_bytes = static_cast<std::size_t>(shared.comm.max(static_cast<long long>(exchange_.buffer_bytes())));
  }

  /// The first round: every element is compared. What the first algorithm received stands for all in the rounds to
  /// come.
  void checked_round() {
    DispatchedTokens tokens = exchange_.dispatch(shared_.rows, shared_.mine.expert_ids, shared_.mine.weights);
    if (shared_.rows_from.empty()) receive_for_all(tokens);
    if (shared_.expected) wrong_ += shared_.expected->wrong_rows(tokens);
    std::vector<float> sums = shared_.sums;
    sums.resize(static_cast<std::size_t>(tokens.n_rows()) * static_cast<std::size_t>(tokens.hidden()));
    exchange_.combine(std::move(tokens), sums, shared_.out);
    check_sums();
  }

  void check_sums() {
    if (shared_.expected) wrong_ += shared_.expected->wrong_sums(shared_.out);
  }

  /// One round. @param iteration from 0; below 0: a round that does not count
  double round(int iteration) {
    const BenchmarkOptions& options = shared_.bench.options;
    record_ = iteration >= 0 && options.record_waits;
    const Injection fault = fault_in(iteration, options.injection);
    std::vector<float>& sums = shared_.sums;
    const bool corrupt = corrupts(fault, shared_.comm.rank()) && !sums.empty();
    const float kept = corrupt ? std::exchange(sums[0], sums[0] + 1) : 0;
    const double seconds = round_of(
        shared_.bench.operation, [&](auto&& step) { return timed(fault, step); },
        [&] {
          exchange_.dispatch_begin(shared_.rows, shared_.mine.expert_ids, shared_.mine.weights);
          common_wait([&] { tokens_ = exchange_.dispatch_end(); });
        },
        [&] {
          exchange_.combine_begin(std::move(tokens_), sums);
          common_wait([&] { exchange_.combine_end(shared_.out); });
        });
    if (fault.kind != Injection::Kind::none) check_sums();
    if (corrupt) sums[0] = kept;
    return seconds;
  }

  void after_turn() {
    if (shared_.bench.options.record_waits) waits_.book_common();
  }

  void set_resident_bytes(std::uint64_t bytes) { result_.resident_bytes = bytes; }

  /// What has been measured, but for the limit. Collective.
  BenchmarkResult result(Contender& contender) {
    const Communicator& comm = shared_.comm;
    // Once more at the end: the last of all rounds.
    round(-1);
    check_sums();
    const ExchangeStatistics& statistics = exchange_.statistics();
    const bool there = shared_.bench.operation != Operation::combine,
               back = shared_.bench.operation != Operation::dispatch;
    std::vector<std::uint64_t> bytes_to(static_cast<std::size_t>(comm.size())), bytes_from(bytes_to.size());
    ModelTime model;
    const auto add = [&](Phase phase) {
      std::vector<std::uint64_t> to, from;
      for (const int rows : statistics.rows_to(phase)) to.push_back(message_bytes(exchange_.config(), phase, rows));
      for (const int rows : statistics.rows_from(phase)) from.push_back(message_bytes(exchange_.config(), phase, rows));
      std::transform(to.begin(), to.end(), bytes_to.begin(), bytes_to.begin(), std::plus<>());
      std::transform(from.begin(), from.end(), bytes_from.begin(), bytes_from.begin(), std::plus<>());
      if (shared_.bench.machine) model = modelled_phase(comm, *shared_.bench.machine, phase, to, from, model);
    };
    if (there) add(Phase::dispatch);
    if (back) add(Phase::combine);
    if (shared_.bench.machine) result_.model_us = comm.max(model.us());
    fill_figures(comm, contender, bytes_to, bytes_from, wrong_, result_);
    if (shared_.bench.options.record_waits) result_.waits = waits_.gather(bytes_to);
    return std::move(result_);
  }

 private:
  /// The part of a round that is timed, late by the fault. Books the waits of the step that tell for whom.
  template <class Step>
  double timed(const Injection& fault, Step&& step) {
    const std::vector<double>& for_peer_s = exchange_.statistics().waits.for_peer_s;
    if (record_) before_ = for_peer_s;
    start_ = {};
    const double seconds = timed_together(shared_.comm, shared_.bench.exchange.deadline_s, [&] {
      start_ = wall_now();
      delay_rank(fault, shared_.comm.rank());
      step();
    });
    if (record_)
      for (int peer = 0; peer < shared_.comm.size(); ++peer) waits_.add(peer, for_peer_s[peer] - before_[peer]);
    start_ = {};
    return seconds;
  }

  /// The end of a phase, where MPI's own all-to-all waits without telling for whom. Booked while the timed part runs.
  template <class Step>
  void common_wait(Step&& step) {
    const double& for_group_s = exchange_.statistics().waits.for_group_s;
    const WallTime arrival = wall_now();
    const double waited = for_group_s;
    step();
    if (record_ && start_ > WallTime{}) waits_.add_common((arrival - start_).value, for_group_s - waited);
  }

  void receive_for_all(const DispatchedTokens& tokens) {
    const auto hidden = static_cast<std::size_t>(tokens.hidden());
    for (int rank = 0; rank < shared_.comm.size(); ++rank)
      shared_.rows_from.push_back(tokens.first_row_of(rank + 1) - tokens.first_row_of(rank));
    const std::vector<float> factors = received_factors(tokens);
    shared_.sums.resize(factors.size() * hidden);
    tokens.copy_rows_f32(shared_.sums);
    for (std::size_t i = 0; i < shared_.sums.size(); ++i) shared_.sums[i] *= factors[i / hidden];
  }

  Shared& shared_;
  TokenExchange exchange_;
  DispatchedTokens tokens_;
  WaitReport waits_;
  bool record_ = false;         ///< the waits of the round at hand
  std::vector<double> before_;  ///< [ranks] seconds waited when its timed part began
  WallTime start_;              ///< of the timed part while it runs, else 0
  long long wrong_ = 0;
  BenchmarkResult result_;
};

/// A round of the same work without communication.
double local_round(Shared& shared, LocalWork& local) {
  return round_of(
      shared.bench.operation,
      [&](auto&& step) { return timed_together(shared.comm, shared.bench.exchange.deadline_s, step); },
      [&] {
        local.dispatch({shared.rows, shared.mine.expert_ids, shared.mine.weights});
      },
      [&] { local.combine(shared.sums, shared.out); });
}

/// Sets to_best of all.
void compare(std::vector<BenchmarkResult>& results) {
  const auto rank_of = [](const BenchmarkResult& result) {
    return std::pair(result.requested == "auto", summarize(result.wall_us).p50);
  };
  const auto best = std::min_element(results.begin(), results.end(),
                                     [&](const auto& a, const auto& b) { return rank_of(a) < rank_of(b); });
  for (BenchmarkResult& result : results) {
    const Summary ratio = paired_ratio(result.turn_us, best->turn_us);
    result.to_best = {best->algorithm, ratio.p50, ratio.ci95, ratio.count};
  }
}

/// The same work in local memory; with the kind of stores that is faster for this size.
std::vector<double> faster(const Contender& a, const Contender& b) {
  return summarize(a.us).p50 <= summarize(b.us).p50 ? a.us : b.us;
}

}  // namespace

std::vector<std::string> operation_names() {
  std::vector<std::string> names;
  for (const Operation operation :
       {Operation::dispatch, Operation::combine, Operation::roundtrip, Operation::alltoallv})
    names.emplace_back(name_of(operation));
  return names;
}

Operation parse_operation(std::string_view name) {
  const auto names = operation_names();
  const auto found = std::find(names.begin(), names.end(), name);
  if (found == names.end())
    throw UsageError(fmt::format("operation '{}' unknown; known: {}", name, fmt::join(names, ", ")));
  return static_cast<Operation>(found - names.begin());
}

std::vector<BenchmarkResult> run_benchmark(const Communicator& comm, const BenchmarkCase& bench) {
  const Repetition& repetition = bench.options.repetition;
  Shared shared(comm, bench);
  std::vector<std::unique_ptr<Candidate>> candidates;
  std::vector<Contender> contenders;
  const std::uint64_t without = resident_bytes();
  for (const std::string& algorithm : bench.algorithms) {
    const std::uint64_t before = resident_bytes();
    Candidate* candidate = candidates.emplace_back(std::make_unique<Candidate>(shared, algorithm)).get();
    candidate->checked_round();
    Contender& contender = contenders.emplace_back();
    contender.round = [candidate](int iteration) { return candidate->round(iteration); };
    contender.after_turn = [candidate] { candidate->after_turn(); };
    warm_up(comm, repetition, bench.exchange.deadline_s, contender);
    const std::uint64_t after = resident_bytes();
    candidate->set_resident_bytes(without + (after > before ? after - before : 0));
  }
  LocalWork ordinary(bench.exchange, comm.rank(), shared.rows_from, Stores::ordinary);
  LocalWork streaming(bench.exchange, comm.rank(), shared.rows_from, Stores::streaming);
  for (LocalWork* local : {&ordinary, &streaming}) {
    Contender& contender = contenders.emplace_back();
    contender.round = [&shared, local](int) { return local_round(shared, *local); };
    warm_up(comm, repetition, bench.exchange.deadline_s, contender);
  }
  repeat(comm, repetition, bench.exchange.deadline_s, contenders);

  const std::size_t n = candidates.size();
  std::vector<BenchmarkResult> results;
  for (std::size_t i = 0; i < n; ++i) {
    results.push_back(candidates[i]->result(contenders[i]));
    results.back().limit_us = faster(contenders[n], contenders[n + 1]);
  }
  if (!results.empty()) compare(results);
  return results;
}

}  // namespace supernode::collectives
