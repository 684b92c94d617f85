#include "collectives/token_exchange.hpp"

#include <algorithm>
#include <array>
#include <exception>
#include <utility>

#include "collectives/algorithms/algorithm.hpp"
#include "collectives/algorithms/choice.hpp"
#include "collectives/algorithms/find_hosts.hpp"
#include "runtime/core/error.hpp"
#include "runtime/core/mpi/silent_ranks.hpp"
#include "runtime/core/quantise.hpp"
#include "runtime/core/stopwatch.hpp"

namespace supernode::collectives {
namespace {

void check(const ExchangeConfig& config) {
  const auto positive = [](int value, const char* name) {
    if (value <= 0)
      throw UsageError("token exchange: " + std::string(name) + " " + std::to_string(value) + " must be > 0");
  };
  positive(config.max_tokens, "max_tokens");
  positive(config.hidden, "hidden");
  positive(config.topk, "topk");
  positive(config.num_experts, "num_experts");
  if (config.combine_payload == Payload::int8)
    throw UsageError("token exchange: combine payload int8 is not possible, sums need bf16 or f32");
  if (config.least_dispatch_row_bytes < 0)
    throw UsageError("token exchange: least_dispatch_row_bytes " + std::to_string(config.least_dispatch_row_bytes) +
                     " must be >= 0");
  if (!(config.deadline_s > 0)) throw UsageError("token exchange: deadline must be > 0 s");
  positive(config.fake_hosts, "fake_hosts");
}

/// The algorithm of an exchange: the named one, or by rules among those that work on these ranks. Collective: asks MPI
/// for the windows that the choice needs.
Selection choose(const ExchangeConfig& config, const Communicator& comm, const HostMap& hosts) {
  ExchangeShape shape{.ranks = comm.size(), .hosts = hosts.hosts()};
  const Selection first = select_algorithm(config, shape);
  if (first.algorithm.needs == Windows::none) return first;
  shape.windows = probe_windows(comm, hosts);
  if (config.algorithm != "auto") require_windows(first.algorithm, shape.hosts, shape.windows);
  return select_algorithm(config, shape);
}

}  // namespace

std::size_t exchange_buffer_bytes(const ExchangeConfig& config, int ranks, int hosts) {
  check(config);
  std::vector<const AlgorithmEntry*> entries;
  if (config.algorithm != "auto") {
    entries.push_back(&find_algorithm(config.algorithm));
  } else {
    entries = automatic_algorithms(config, ranks);
  }
  const HostMap map = HostMap::blocks(ranks, std::min(hosts, ranks));
  std::size_t largest = 0;
  // Ranks of one host differ by the experts that they hold, and rank 0 holds the most; hosts differ in size.
  for (int host = 0; host < map.hosts(); ++host) {
    const ExchangeSetup setup(config, map.members(host)[0], map);
    for (const AlgorithmEntry* entry : entries)
      largest = std::max(largest, entry->plan(setup).bytes() + n_round_sets * Round::bytes(setup));
  }
  return largest;
}

struct TokenExchange::Impl {
  Impl(const Communicator& parent, const ExchangeConfig& config)
      : comm(parent.duplicate()),
        setup(config, parent.rank(), find_hosts(comm, config.fake_hosts)),
        selection(choose(config, comm, setup.hosts)),
        name(selection.algorithm.name),
        rounds{Round(setup, 0), Round(setup, 1)} {
    statistics.waits.for_peer_s.resize(setup.n_ranks);
    statistics.dispatched_to.resize(setup.n_ranks);
    statistics.dispatched_from.resize(setup.n_ranks);
    setup.waits = &statistics.waits;
    setup.algorithm = selection.algorithm.name;
    algorithm = selection.algorithm.make(setup, comm);
  }

  Round* in_stage(Stage stage) {
    Round* oldest = nullptr;
    for (Round& round : rounds)
      if (round.stage == stage && (!oldest || round.number < oldest->number)) oldest = &round;
    return oldest;
  }

  /// Runs a step of the algorithm; when it throws, the peers are lost and nothing of this exchange may wait for them
  /// again.
  template <class Step>
  void guarded(Step&& step) {
    expect(!failed, "an exchange was used after it failed");
    try {
      step();
    } catch (const TimeoutError& error) {
      failed = true;
      throw TimeoutError(error.what() + find_silent_ranks(comm));
    } catch (...) {
      failed = true;
      throw;
    }
  }

  Communicator comm;
  ExchangeSetup setup;
  Selection selection;
  std::string name;
  std::array<Round, n_round_sets> rounds;
  std::unique_ptr<ExchangeAlgorithm> algorithm;
  std::uint64_t last_round = 0;
  bool failed = false;
  ExchangeStatistics statistics;
};

TokenExchange::TokenExchange(const Communicator& comm, const ExchangeConfig& config) {
  check(config);
  impl_ = std::make_unique<Impl>(comm, config);
}

TokenExchange::~TokenExchange() {
  // Freeing windows and finishing requests waits for peers, which may have been found silent or know nothing of the
  // error that ends this rank: leave them to the process's end.
  if (impl_ && (impl_->failed || std::uncaught_exceptions() > 0)) static_cast<void>(impl_.release());
}

TokenExchange::TokenExchange(TokenExchange&&) noexcept = default;
TokenExchange& TokenExchange::operator=(TokenExchange&& other) noexcept {
  std::swap(impl_, other.impl_);
  return *this;
}

void TokenExchange::dispatch_begin(std::span<const float> rows, std::span<const std::int32_t> expert_ids,
                                   std::span<const float> weights) {
  Impl& self = *impl_;
  const ExchangeConfig& config = self.setup.config;
  const std::size_t n_tokens = rows.size() / static_cast<std::size_t>(config.hidden);
  expect(n_tokens * static_cast<std::size_t>(config.hidden) == rows.size(), "dispatch: rows is not [n_tokens, hidden]");
  expect(expert_ids.size() == n_tokens * static_cast<std::size_t>(config.topk),
         "dispatch: expert_ids is not [n_tokens, topk]");
  expect(weights.size() == expert_ids.size(), "dispatch: weights is not [n_tokens, topk]");
  Round* round = self.rounds[0].stage == Stage::idle ? &self.rounds[0] : &self.rounds[1];
  expect(round->stage == Stage::idle, "dispatch: two rounds are in flight already");
  round->dispatch_s = round->combine_s = 0;
  const Stopwatch watch(round->dispatch_s);
  round->number = ++self.last_round;
  round->plan.build(expert_ids);
  self.guarded([&] { self.algorithm->begin_dispatch(*round, {rows, expert_ids, weights}); });
  round->stage = Stage::sent;
}

DispatchedTokens TokenExchange::dispatch_end() {
  Impl& self = *impl_;
  Round* round = self.in_stage(Stage::sent);
  expect(round != nullptr, "dispatch_end without dispatch_begin");
  {
    const Stopwatch watch(round->dispatch_s);
    self.guarded([&] { self.algorithm->end_dispatch(*round); });
    round->index_rows();
  }
  round->stage = Stage::arrived;
  ExchangeStatistics& statistics = self.statistics;
  statistics.dispatch_s = round->dispatch_s;
  statistics.rows += static_cast<std::uint64_t>(round->plan.n_rows());
  std::ranges::copy(round->plan.rows_to(), statistics.dispatched_to.begin());
  statistics.rows_away += static_cast<std::uint64_t>(
      round->plan.n_rows() - statistics.dispatched_to[static_cast<std::size_t>(self.comm.rank())]);
  std::ranges::copy(round->rows_from, statistics.dispatched_from.begin());
  return DispatchedTokens(round);
}

void TokenExchange::combine_begin(DispatchedTokens&& tokens, std::span<const float> sums) {
  Impl& self = *impl_;
  Round* round = std::exchange(tokens.round_, nullptr);
  expect(round != nullptr && round->setup == &self.setup, "combine: the handle is empty or another exchange's");
  expect(round == self.in_stage(Stage::arrived), "combine: not the oldest dispatch");
  expect(sums.size() == static_cast<std::size_t>(round->n_rows()) * static_cast<std::size_t>(self.setup.config.hidden),
         "combine: sums is not [n_rows, hidden]");
  const Stopwatch watch(round->combine_s);
  round->sums = sums.data();
  self.guarded([&] { self.algorithm->begin_combine(*round); });
  round->stage = Stage::returned;
}

void TokenExchange::combine_end(std::span<float> out) {
  Impl& self = *impl_;
  Round* round = self.in_stage(Stage::returned);
  expect(round != nullptr, "combine_end without combine_begin");
  expect(out.size() ==
             static_cast<std::size_t>(round->plan.n_tokens()) * static_cast<std::size_t>(self.setup.config.hidden),
         "combine: out is not [n_tokens, hidden]");
  {
    const Stopwatch watch(round->combine_s);
    self.guarded([&] { self.algorithm->end_combine(*round); });
    round->add_up(out);
  }
  round->stage = Stage::idle;
  self.statistics.combine_s = round->combine_s;
}

DispatchedTokens TokenExchange::dispatch(std::span<const float> rows, std::span<const std::int32_t> expert_ids,
                                         std::span<const float> weights) {
  dispatch_begin(rows, expert_ids, weights);
  return dispatch_end();
}

void TokenExchange::combine(DispatchedTokens&& tokens, std::span<const float> sums, std::span<float> out) {
  combine_begin(std::move(tokens), sums);
  combine_end(out);
}

const ExchangeConfig& TokenExchange::config() const { return impl_->setup.config; }
const ExpertPartition& TokenExchange::experts() const { return impl_->setup.experts; }
const std::string& TokenExchange::algorithm() const { return impl_->name; }
std::size_t TokenExchange::buffer_bytes() const {
  std::size_t bytes = impl_->algorithm->allocated_bytes();
  for (const Round& round : impl_->rounds) bytes += round.allocated_bytes();
  return bytes;
}
const std::string& TokenExchange::chosen_by() const { return impl_->selection.rule; }
const ExchangeStatistics& TokenExchange::statistics() const { return impl_->statistics; }

DispatchedTokens::DispatchedTokens(DispatchedTokens&& other) noexcept : round_(std::exchange(other.round_, nullptr)) {}
DispatchedTokens& DispatchedTokens::operator=(DispatchedTokens&& other) noexcept {
  round_ = std::exchange(other.round_, nullptr);
  return *this;
}

const Round& DispatchedTokens::round() const {
  expect(round_ != nullptr, "a handle of dispatched tokens was used after combine");
  return *round_;
}

int DispatchedTokens::n_rows() const { return round().n_rows(); }
int DispatchedTokens::hidden() const { return round().setup->config.hidden; }
Payload DispatchedTokens::payload() const { return round().setup->config.dispatch_payload; }
int DispatchedTokens::first_row_of(int source_rank) const { return round().first_row[source_rank]; }

std::span<const std::int8_t> DispatchedTokens::row_int8(int row) const {
  expect(payload() == Payload::int8, "row_int8: the payload is another");
  return {reinterpret_cast<const std::int8_t*>(round().row[row]), static_cast<std::size_t>(hidden())};
}

float DispatchedTokens::row_scale(int row) const { return round().scale[row]; }

void DispatchedTokens::copy_row_f32(int row, std::span<float> out) const {
  expect(out.size() == static_cast<std::size_t>(hidden()), "copy_row_f32: out is not [hidden]");
  read_row(payload(), round().row[row], round().scale[row], out);
}

void DispatchedTokens::copy_rows_f32(std::span<float> out) const {
  const auto width = static_cast<std::size_t>(hidden());
  expect(out.size() == static_cast<std::size_t>(n_rows()) * width, "copy_rows_f32: out is not [n_rows, hidden]");
  for (int row = 0; row < n_rows(); ++row) copy_row_f32(row, out.subspan(static_cast<std::size_t>(row) * width, width));
}

int DispatchedTokens::n_local_experts() const { return static_cast<int>(round().expert_offset.size()) - 1; }

std::span<const std::int32_t> DispatchedTokens::expert_rows(int e) const {
  const int begin = round().expert_offset[e];
  return {round().expert_row.data() + begin, static_cast<std::size_t>(round().expert_offset[e + 1] - begin)};
}

std::span<const float> DispatchedTokens::expert_weights(int e) const {
  const int begin = round().expert_offset[e];
  return {round().expert_weight.data() + begin, static_cast<std::size_t>(round().expert_offset[e + 1] - begin)};
}

}  // namespace supernode::collectives
