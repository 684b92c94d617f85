#include "moe/transformer.hpp"

#include <algorithm>
#include <functional>
#include <utility>

#include <fmt/format.h>

#include "collectives/expert_partition.hpp"
#include "collectives/token_exchange.hpp"
#include "moe/checkpoint.hpp"
#include "moe/model/step_runner.hpp"
#include "moe/products/kept_keys.hpp"
#include "runtime/core/mpi/agreement.hpp"
#include "runtime/core/mpi/deadline_collectives.hpp"
#include "runtime/core/random.hpp"

namespace supernode::moe {
namespace {

void check_options(const TransformerOptions& options) {
  if (options.max_batch_tokens < 1) throw UsageError("max_batch_tokens: at least 1");
  if (options.microbatches != 1 && options.microbatches != 2) throw UsageError("microbatches: 1 or 2");
  if (options.threads < 1) throw UsageError("threads: at least 1");
  if (options.draft_experts < 0) throw UsageError("draft_experts: at least 0");
  if (options.draft_window < 0) throw UsageError("draft_window: at least 0");
}

/// What rows travel as: to the experts, and their sums back.
struct Payloads {
  collectives::Payload there, back;
};
Payloads payloads_of(ComputeType type) {
  using collectives::Payload;
  if (type == ComputeType::f32) return {Payload::f32, Payload::f32};
  return {type == ComputeType::int8 ? Payload::int8 : Payload::bf16, Payload::bf16};
}

/// Of a row.
std::uint64_t bytes_there_and_back(const collectives::TokenExchange& exchange) {
  return row_bytes(exchange.config(), Phase::dispatch) + row_bytes(exchange.config(), Phase::combine);
}

}  // namespace

collectives::ExchangeConfig exchange_config(const ModelConfig& config, const TransformerOptions& options) {
  const Payloads payloads = payloads_of(options.type);
  const int most = StepPlan::most_rows(options.max_batch_tokens, options.microbatches);
  const int typical = (options.typical_tokens + options.microbatches - 1) / options.microbatches;
  return {.max_tokens = most,
          .hidden = config.hidden_size,
          .topk = config.topk,
          .num_experts = config.n_routed_experts,
          .dispatch_payload = payloads.there,
          .combine_payload = payloads.back,
          .algorithm = options.exchange,
          .typical_tokens = std::min(typical, most),
          .rules = options.exchange_rules,
          .deadline_s = options.deadline};
}

namespace {

/// Of the chunks that all ranks share: a whole number that differs where they do.
double fingerprint(std::span<const SequenceChunk> chunks) {
  std::uint64_t mixed = 0;
  const auto add = [&](std::uint64_t value) { mixed = mix64(mixed ^ value); };
  for (const SequenceChunk& chunk : chunks) {
    if (!chunk.split_home) continue;
    add(static_cast<std::uint64_t>(*chunk.split_home) + 1);
    add(static_cast<std::uint64_t>(chunk.cache->length()));
    add(chunk.all_logits ? 1 : 0);
    add(chunk.tokens.size());
    for (const std::int32_t token : chunk.tokens) add(static_cast<std::uint64_t>(token));
  }
  return static_cast<double>(mixed >> 12);
}

}  // namespace

/// What its ranks agree on before a step; the step itself is StepRunner's.
struct Transformer::Impl {
  Impl(Checkpoint& checkpoint, const TransformerOptions& o, const ExpertRange& mine, int n_ranks)
      : options(o), runner(checkpoint, o, mine, n_ranks) {}

  KvCache make_cache(int n_layers) const {
    const ModelConfig& c = runner.config();
    return KvCache(n_layers, c.kv_width(), keeps_keys(c) ? KeptLayout(c).unit_floats() : 0);
  }
  /// @throws UsageError for a chunk that may not be computed, or a cache that is there twice. Local.
  void check_chunks(std::span<const SequenceChunk> chunks, const KvCache& shape);
  /// Checks them, fills draft_chunks and plans their slices. @returns how many.
  int plan_draft(std::span<const DraftChunk> chunks);
  /// Agrees on agreed_slices and agreed_guesses. Collective. @param shared fingerprint of the chunks that all share
  /// @throws AgreedError when any rank has a failure, or others share other chunks.
  void agree_on_step(int slices, Guesses guesses, const std::exception_ptr& failure, double shared = 0);

  TransformerOptions options;
  Communicator comm;  ///< set when all ranks have read their weights
  StepRunner runner;
  KvCache main_shape = make_cache(runner.config().n_layers), draft_shape = make_cache(1);
  std::vector<const KvCache*> caches;       ///< of the step, sorted
  std::vector<SequenceChunk> draft_chunks;  ///< of a draft()
  int agreed_slices = 0;                    ///< of the step; 0: no rank had tokens
  bool begun = false;                       ///< begin_step() has agreed on the next forward()
  bool agreed_guesses = false;              ///< some rank wants a draft() after it
};

Transformer::Transformer(const std::string& checkpoint_dir, const TransformerOptions& options, const Communicator& ep)
    : Transformer(collectively(ep,
                               [&] {
                                 check_options(options);
                                 return Checkpoint(checkpoint_dir);
                               }),
                  options, ep) {}

Transformer::Transformer(Checkpoint checkpoint, const TransformerOptions& options, const Communicator& ep) {
  impl_ = collectively(ep, [&] {
    check_options(options);
    const collectives::ExpertPartition partition(checkpoint.config().n_routed_experts, ep.size());
    return std::make_unique<Impl>(checkpoint, options,
                                  ExpertRange{partition.first(ep.rank()), partition.count(ep.rank())}, ep.size());
  });
  Impl& m = *impl_;
  m.comm = ep.duplicate();
  m.runner.set_sharing(m.comm);
  const ModelConfig& config = m.runner.config();
  if (config.n_routed_experts > 0)
    m.runner.set_exchange(std::make_unique<collectives::TokenExchange>(m.comm, exchange_config(config, options)));
}

Transformer::~Transformer() = default;
Transformer::Transformer(Transformer&&) noexcept = default;
Transformer& Transformer::operator=(Transformer&&) noexcept = default;

const ModelConfig& Transformer::config() const { return impl_->runner.config(); }
const StepStatistics& Transformer::last_step() const { return impl_->runner.clock().statistics; }
void Transformer::record_routing(RoutingRecord record) { impl_->runner.record_routing(record); }
std::span<const std::int32_t> Transformer::routed_rows(int microbatch) const {
  return impl_->runner.routed_rows(microbatch);
}
std::span<const std::int32_t> Transformer::drafted_rows(int microbatch) const {
  return impl_->runner.drafted_rows(microbatch);
}
std::vector<ChunkPiece> Transformer::pieces(int microbatch) const { return impl_->runner.pieces(microbatch); }
void Transformer::set_observer(std::function<void(const LayerTrace&)> observer) {
  impl_->runner.set_observer(std::move(observer));
}
KvCache Transformer::make_cache() const { return impl_->make_cache(config().n_layers); }
KvCache Transformer::make_draft_cache() const { return impl_->make_cache(1); }
SequenceState Transformer::make_state() const {
  if (!can_draft()) return {make_cache(), KvCache(), 0, {}};
  return {make_cache(), make_draft_cache(), config().hidden_size, {}};
}
int Transformer::rank() const { return impl_->comm.rank(); }
int Transformer::microbatches() const { return impl_->options.microbatches; }
bool Transformer::can_draft() const { return impl_->runner.has_mtp(); }
std::size_t Transformer::exchange_bytes() const {
  const collectives::TokenExchange* exchange = impl_->runner.exchange();
  return exchange ? exchange->buffer_bytes() : 0;
}

std::uint64_t Transformer::exchanged_bytes() const {
  const collectives::TokenExchange* exchange = impl_->runner.exchange();
  return exchange ? exchange->statistics().rows * bytes_there_and_back(*exchange) : 0;
}
std::uint64_t Transformer::exchanged_bytes_away() const {
  const collectives::TokenExchange* exchange = impl_->runner.exchange();
  return exchange ? exchange->statistics().rows_away * bytes_there_and_back(*exchange) : 0;
}
ExpertPlaces Transformer::expert_places() { return impl_->runner.expert_places(); }

void Transformer::record_products() { impl_->runner.gemm().start_recording(); }
ProductTimes Transformer::replay_products() {
  Gemm& gemm = impl_->runner.gemm();
  gemm.stop_recording();
  ProductTimes times;
  times.seconds = gemm.replay();
  times.library_seconds = gemm.replay_by_library();
  times.implementations = gemm.recorded_operations();
  for (const auto& [name, operations] : times.implementations) times.operations += operations;
  return times;
}

void Transformer::Impl::check_chunks(std::span<const SequenceChunk> chunks, const KvCache& shape) {
  caches.clear();
  bool shared = false;
  for (const SequenceChunk& chunk : chunks) {
    if (shared && !chunk.split_home) throw UsageError("chunks that ranks share come last in a step");
    shared = chunk.split_home.has_value();
    if (shared && (*chunk.split_home < 0 || *chunk.split_home >= comm.size()))
      throw UsageError(fmt::format("a chunk's home is rank {} of {}", *chunk.split_home, comm.size()));
    check_chunk(runner.config(), shape, chunk);
    caches.push_back(chunk.cache);
  }
  std::sort(caches.begin(), caches.end(), std::less<>());
  if (std::adjacent_find(caches.begin(), caches.end()) != caches.end())
    throw UsageError("a cache is used twice in a step");
}

void Transformer::Impl::agree_on_step(int slices, Guesses guesses, const std::exception_ptr& failure, double shared) {
  double agreed[] = {failure ? 0.0 : slices, failure ? 1.0 : 0.0, guesses == Guesses::wanted ? 1.0 : 0.0, shared,
                     -shared};
  supernode::take_largest(comm, agreed, options.deadline, "the begin of a step");
  if (agreed[1] != 0) agree(comm, failure);
  if (agreed[3] != -agreed[4])
    agree(comm, std::make_exception_ptr(UsageError("the ranks of a step do not share the same chunks")));
  agreed_slices = static_cast<int>(agreed[0]);
  agreed_guesses = agreed[2] != 0;
}

StepResult Transformer::forward(std::span<const SequenceChunk> chunks, Guesses guesses) {
  Impl& m = *impl_;
  m.runner.clock().start();
  std::exception_ptr failure;
  int slices = 0;
  try {
    m.check_chunks(chunks, m.main_shape);
    slices = m.runner.plan(chunks);
  } catch (const Error&) {
    failure = std::current_exception();
  }
  if (std::exchange(m.begun, false)) {
    if (failure) std::rethrow_exception(failure);
    expect(chunks.empty() || !chunks.back().split_home, "Transformer::forward: shared chunks after begin_step()");
    expect(slices <= m.agreed_slices, "Transformer::forward: more than begin_step() said");
  } else {
    m.agree_on_step(slices, guesses, failure, failure ? 0 : fingerprint(chunks));
    m.runner.clock().lap(&StepStatistics::exchange);
  }
  StepResult result = m.runner.run_main(chunks, m.agreed_slices);
  result.guesses = m.agreed_guesses;
  return result;
}

void Transformer::abandon(const std::exception_ptr& failure) {
  expect(failure != nullptr, "Transformer::abandon without a reason");
  impl_->agree_on_step(0, Guesses::none, failure);
  panic("Transformer::abandon: nobody threw");
}

void Transformer::begin_step(int tokens) {
  Impl& m = *impl_;
  m.runner.clock().start();
  const int most = m.options.max_batch_tokens;
  m.agree_on_step((tokens + most - 1) / most, Guesses::none, nullptr);
  m.begun = true;
  m.runner.clock().lap(&StepStatistics::exchange);
}

int Transformer::Impl::plan_draft(std::span<const DraftChunk> chunks) {
  expect(runner.has_mtp(), "Transformer::draft without an MTP module");
  draft_chunks.clear();
  for (const DraftChunk& chunk : chunks) {
    expect(chunk.hidden.size() == chunk.tokens.size() * static_cast<std::size_t>(runner.config().hidden_size),
           "Transformer::draft: hidden is not [tokens, hidden_size]");
    draft_chunks.push_back({chunk.cache, chunk.tokens, chunk.all_logits});
  }
  check_chunks(draft_chunks, draft_shape);
  runner.clock().start();
  return runner.plan(draft_chunks);
}

StepResult Transformer::draft(std::span<const DraftChunk> chunks) {
  Impl& m = *impl_;
  // No more tokens than in the forward() before or behind it, so no more slices: nothing to agree on.
  expect(m.plan_draft(chunks) <= m.agreed_slices, "Transformer::draft: more tokens than were agreed on");
  return m.runner.run_draft(m.draft_chunks, chunks, m.agreed_slices);
}

void Transformer::catch_up(SequenceState& state, std::optional<std::int32_t> next) {
  Impl& m = *impl_;
  UnseenPositions& unseen = state.unseen;
  if (next && !unseen.empty()) unseen.follows.push_back(*next);
  const std::size_t known = unseen.follows.size(), floats = known * static_cast<std::size_t>(state.hidden_size);
  if (known == 0) return;
  const DraftChunk chunk{&state.draft, std::span(unseen.hidden).first(floats), unseen.follows};
  const int slices = m.plan_draft({&chunk, 1});
  m.runner.fill_draft_cache(m.draft_chunks, {&chunk, 1}, slices);
  unseen.follows.clear();
  unseen.hidden.erase(unseen.hidden.begin(), unseen.hidden.begin() + static_cast<std::ptrdiff_t>(floats));
}

void Transformer::catch_up_shared(SequenceState& state, std::span<const std::int32_t> follows,
                                  std::span<const float> hidden, int home, Behind behind) {
  Impl& m = *impl_;
  expect(m.runner.has_mtp() && state.unseen.empty(), "Transformer::catch_up_shared: positions before the chunk's");
  expect(state.draft.length() + static_cast<int>(follows.size()) == state.main.length(),
         "Transformer::catch_up_shared: not behind the chunk's forward()");
  // As many tokens as the model had, so that each rank has the same share of them.
  const SequenceChunk chunk{&state.draft, follows, false, home};
  const DraftChunk draft{&state.draft, hidden, follows};
  m.check_chunks({&chunk, 1}, m.draft_shape);
  m.runner.clock().start();
  static_cast<void>(m.runner.plan({&chunk, 1}));
  m.runner.fill_draft_cache({&chunk, 1}, {&draft, 1}, 0);
  if (behind == Behind::unknown) state.draft.truncate(state.main.length() - 1);
}

void Transformer::take_largest(std::span<double> values) {
  supernode::take_largest(impl_->comm, values, impl_->options.deadline);
}

}  // namespace supernode::moe
