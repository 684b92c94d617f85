#include "collectives/token_exchange.hpp"

#include <algorithm>
#include <array>
#include <exception>
#include <utility>

#include "collectives/algorithms/algorithm.hpp"
#include "collectives/algorithms/roll_call.hpp"
#include "runtime/core/error.hpp"
#include "runtime/core/mpi/mpi_call.hpp"
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
  if (!(config.deadline_s > 0)) throw UsageError("token exchange: deadline must be > 0 s");
  positive(config.fake_hosts, "fake_hosts");
}

/// Who shares a host with whom; each host counts as `parts`. Collective.
HostMap find_hosts(const Communicator& comm, int parts) {
  const Communicator host = comm.split_by_host();
  int first = comm.rank();
  SUPERNODE_MPI(MPI_Bcast(&first, 1, MPI_INT, 0, host.get()));
  const int part = static_cast<int>(static_cast<long long>(host.rank()) * parts / host.size());
  // Labels of a host's parts: the rank that is first there, and the part's number among its ranks.
  const int label[2] = {first, part};
  std::vector<int> labels(2 * static_cast<std::size_t>(comm.size())), host_of(static_cast<std::size_t>(comm.size()));
  SUPERNODE_MPI(MPI_Allgather(label, 2, MPI_INT, labels.data(), 2, MPI_INT, comm.get()));
  for (std::size_t rank = 0; rank < host_of.size(); ++rank) {
    std::size_t same = 0;  // the lowest rank with this label stands for it
    while (labels[2 * same] != labels[2 * rank] || labels[2 * same + 1] != labels[2 * rank + 1]) ++same;
    host_of[rank] = static_cast<int>(same);
  }
  return HostMap(host_of);
}

}  // namespace

std::size_t exchange_buffer_bytes(const ExchangeConfig& config, int ranks, int hosts) {
  check(config);
  const ExchangeSetup setup(config, 0, HostMap::blocks(ranks, std::min(hosts, ranks)));
  std::size_t largest = 0;
  if (config.algorithm != "auto") {
    largest = find_algorithm(config.algorithm).buffer_bytes(setup);
  } else {
    for (const AlgorithmEntry* entry : automatic_algorithms(config, ranks))
      largest = std::max(largest, entry->buffer_bytes(setup));
  }
  return largest + n_round_sets * RoundBuffers::bytes(setup);
}

/// A round goes idle -> sent -> arrived -> returned -> idle, by dispatch_begin, dispatch_end, combine_begin,
/// combine_end.
enum class Stage { idle, sent, arrived, returned };

struct TokenExchange::Impl {
  Impl(const Communicator& parent, const ExchangeConfig& config)
      : comm(parent.duplicate()),
        setup(config, parent.rank(), find_hosts(comm, config.fake_hosts)),
        selection(select_algorithm(config, {parent.size(), setup.hosts.hosts()})),
        name(selection.algorithm.name),
        rounds{RoundBuffers(setup, 0), RoundBuffers(setup, 1)},
        algorithm(selection.algorithm.make(setup, comm)) {
    statistics.waits.for_peer_s.resize(setup.n_ranks);
    setup.waits = &statistics.waits;
    statistics.dispatch_bytes_to.resize(setup.n_ranks);
    statistics.dispatch_bytes_from.resize(setup.n_ranks);
    statistics.combine_bytes_to.resize(setup.n_ranks);
    statistics.combine_bytes_from.resize(setup.n_ranks);
  }

  RoundBuffers* in_stage(Stage stage) {
    RoundBuffers* oldest = nullptr;
    for (RoundBuffers& round : rounds)
      if (stages[round.set] == stage && (!oldest || round.number < oldest->number)) oldest = &round;
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
      throw TimeoutError(error.what() + call_the_roll(comm));
    } catch (...) {
      failed = true;
      throw;
    }
  }

  Communicator comm;
  ExchangeSetup setup;
  Selection selection;
  std::string name;
  std::array<RoundBuffers, n_round_sets> rounds;
  std::array<Stage, n_round_sets> stages{};
  std::array<double, n_round_sets> dispatch_s{}, combine_s{};
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
  RoundBuffers* round = self.stages[0] == Stage::idle ? &self.rounds[0] : &self.rounds[1];
  expect(self.stages[round->set] == Stage::idle, "dispatch: two rounds are in flight already");
  self.dispatch_s[round->set] = self.combine_s[round->set] = 0;
  const Stopwatch watch(self.dispatch_s[round->set]);
  round->number = ++self.last_round;
  round->plan.build(expert_ids);
  self.guarded([&] { self.algorithm->begin_dispatch(*round, {rows, expert_ids, weights}); });
  self.stages[round->set] = Stage::sent;
}

DispatchedTokens TokenExchange::dispatch_end() {
  Impl& self = *impl_;
  RoundBuffers* round = self.in_stage(Stage::sent);
  expect(round != nullptr, "dispatch_end without dispatch_begin");
  {
    const Stopwatch watch(self.dispatch_s[round->set]);
    self.guarded([&] { self.algorithm->end_dispatch(*round); });
    round->index_rows();
  }
  self.stages[round->set] = Stage::arrived;
  ExchangeStatistics& statistics = self.statistics;
  statistics.dispatch_s = self.dispatch_s[round->set];
  statistics.rows_sent = round->plan.n_rows();
  statistics.rows_received = round->n_rows();
  for (int rank = 0; rank < self.setup.n_ranks; ++rank) {
    statistics.dispatch_bytes_to[rank] = self.setup.dispatch.bytes(round->plan.rows_to(rank));
    statistics.dispatch_bytes_from[rank] = self.setup.dispatch.bytes(round->rows_from[rank]);
    statistics.combine_bytes_to[rank] = self.setup.combine.bytes(round->rows_from[rank]);
    statistics.combine_bytes_from[rank] = self.setup.combine.bytes(round->plan.rows_to(rank));
  }
  return DispatchedTokens(round);
}

void TokenExchange::combine_begin(DispatchedTokens&& tokens, std::span<const float> sums) {
  Impl& self = *impl_;
  RoundBuffers* round = std::exchange(tokens.round_, nullptr);
  expect(round != nullptr && round->setup == &self.setup, "combine: the handle is empty or another exchange's");
  expect(round == self.in_stage(Stage::arrived), "combine: not the oldest dispatch");
  expect(sums.size() == static_cast<std::size_t>(round->n_rows()) * static_cast<std::size_t>(self.setup.config.hidden),
         "combine: sums is not [n_rows, hidden]");
  const Stopwatch watch(self.combine_s[round->set]);
  round->sums = sums.data();
  self.guarded([&] { self.algorithm->begin_combine(*round); });
  self.stages[round->set] = Stage::returned;
}

void TokenExchange::combine_end(std::span<float> out) {
  Impl& self = *impl_;
  RoundBuffers* round = self.in_stage(Stage::returned);
  expect(round != nullptr, "combine_end without combine_begin");
  expect(out.size() ==
             static_cast<std::size_t>(round->plan.n_tokens()) * static_cast<std::size_t>(self.setup.config.hidden),
         "combine: out is not [n_tokens, hidden]");
  {
    const Stopwatch watch(self.combine_s[round->set]);
    self.guarded([&] { self.algorithm->end_combine(*round); });
    round->add_up(out);
  }
  self.stages[round->set] = Stage::idle;
  self.statistics.combine_s = self.combine_s[round->set];
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
  return impl_->selection.algorithm.buffer_bytes(impl_->setup) + n_round_sets * RoundBuffers::bytes(impl_->setup);
}
int TokenExchange::hosts() const { return impl_->setup.hosts.hosts(); }
const std::string& TokenExchange::chosen_by() const { return impl_->selection.rule; }
const ExchangeStatistics& TokenExchange::statistics() const { return impl_->statistics; }

DispatchedTokens::DispatchedTokens(DispatchedTokens&& other) noexcept : round_(std::exchange(other.round_, nullptr)) {}
DispatchedTokens& DispatchedTokens::operator=(DispatchedTokens&& other) noexcept {
  round_ = std::exchange(other.round_, nullptr);
  return *this;
}

const RoundBuffers& DispatchedTokens::round() const {
  expect(round_ != nullptr, "a handle of dispatched tokens was used after combine");
  return *round_;
}

int DispatchedTokens::n_rows() const { return round().n_rows(); }
int DispatchedTokens::hidden() const { return round().setup->config.hidden; }
Payload DispatchedTokens::payload() const { return round().setup->config.dispatch_payload; }
int DispatchedTokens::first_row_of(int source_rank) const { return round().first_row[source_rank]; }

std::span<const float> DispatchedTokens::row_f32(int row) const {
  expect(payload() == Payload::f32, "row_f32: the payload is another");
  return {reinterpret_cast<const float*>(round().row[row]), static_cast<std::size_t>(hidden())};
}

std::span<const std::uint16_t> DispatchedTokens::row_bf16(int row) const {
  expect(payload() == Payload::bf16, "row_bf16: the payload is another");
  return {reinterpret_cast<const std::uint16_t*>(round().row[row]), static_cast<std::size_t>(hidden())};
}

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
