#include "moe/transformer.hpp"

#include <algorithm>
#include <functional>
#include <utility>

#include <fmt/format.h>

#include "collectives/expert_partition.hpp"
#include "moe/checkpoint.hpp"
#include "moe/model/model.hpp"
#include "moe/products/kept_keys.hpp"
#include "runtime/core/clock.hpp"
#include "runtime/core/mpi/agreement.hpp"
#include "runtime/core/mpi/deadline.hpp"
#include "runtime/core/mpi/mpi_call.hpp"

namespace supernode::moe {
namespace {

void check_options(const TransformerOptions& options) {
  if (options.max_batch_tokens < 1) throw UsageError("max_batch_tokens: at least 1");
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

}  // namespace

struct Transformer::Impl : Model {
  using Model::Model;

  KvCache make_cache(int n_layers) const {
    return KvCache(n_layers, config.kv_width(), keeps_keys(config) ? KeptLayout(config).unit_floats() : 0);
  }
  /// @throws UsageError for a chunk that may not be computed, or a cache that is there twice. Local.
  void check_chunks(std::span<const SequenceChunk> chunks, const KvCache& shape);
  /// Checks this rank's chunks and agrees on agreed_slices and agreed_guesses.
  void agree_on_step(std::span<const SequenceChunk> chunks, bool guesses);

  KvCache main_shape = make_cache(config.n_layers), draft_shape = make_cache(1);
  std::vector<const KvCache*> caches;  ///< of the step, sorted
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
                                  ExpertRange{partition.first(ep.rank()), partition.count(ep.rank())});
  });
  Impl& m = *impl_;
  m.comm = ep.duplicate();
  if (m.config.n_routed_experts == 0) return;
  const Payloads payloads = payloads_of(options.type);
  m.exchange = std::make_unique<collectives::TokenExchange>(
      m.comm, collectives::ExchangeConfig{.max_tokens = options.max_batch_tokens,
                                          .hidden = m.config.hidden_size,
                                          .topk = m.config.topk,
                                          .num_experts = m.config.n_routed_experts,
                                          .dispatch_payload = payloads.there,
                                          .combine_payload = payloads.back,
                                          .algorithm = options.exchange,
                                          .typical_tokens = std::min(options.typical_tokens, options.max_batch_tokens),
                                          .rules = options.exchange_rules,
                                          .deadline_s = options.deadline});
  m.moe_scratch = std::make_unique<MoeScratch>(m.config, options.max_batch_tokens, ep.size());
}

Transformer::~Transformer() = default;
Transformer::Transformer(Transformer&&) noexcept = default;
Transformer& Transformer::operator=(Transformer&&) noexcept = default;

const ModelConfig& Transformer::config() const { return impl_->config; }
const StepStatistics& Transformer::last_step() const { return impl_->statistics; }
void Transformer::set_observer(std::function<void(const LayerTrace&)> observer) {
  impl_->observer = std::move(observer);
}
KvCache Transformer::make_cache() const { return impl_->make_cache(impl_->config.n_layers); }
KvCache Transformer::make_draft_cache() const { return impl_->make_cache(1); }
bool Transformer::can_draft() const { return impl_->mtp != nullptr; }

void Transformer::record_products() { impl_->gemm.start_recording(); }
ProductTimes Transformer::replay_products() {
  impl_->gemm.stop_recording();
  ProductTimes times;
  times.seconds = impl_->gemm.replay();
  times.library_seconds = impl_->gemm.replay_by_library();
  times.implementations = impl_->gemm.recorded_operations();
  for (const auto& [name, operations] : times.implementations) times.operations += operations;
  return times;
}

void Transformer::Impl::check_chunks(std::span<const SequenceChunk> chunks, const KvCache& shape) {
  caches.clear();
  for (const SequenceChunk& chunk : chunks) {
    check_chunk(config, shape, chunk);
    caches.push_back(chunk.cache);
  }
  std::sort(caches.begin(), caches.end(), std::less<>());
  if (std::adjacent_find(caches.begin(), caches.end()) != caches.end())
    throw UsageError("a cache is used twice in a step");
}

void Transformer::Impl::agree_on_step(std::span<const SequenceChunk> chunks, bool guesses) {
  std::exception_ptr failure;
  try {
    check_chunks(chunks, main_shape);
    plan.build(chunks, options.max_batch_tokens);
  } catch (const Error&) {
    failure = std::current_exception();
  }
  const int mine[3] = {failure ? 0 : static_cast<int>(plan.slices().size()), failure ? 1 : 0, guesses ? 1 : 0};
  int agreed[3] = {0, 0, 0};
  MPI_Request request = MPI_REQUEST_NULL;
  SUPERNODE_MPI(MPI_Iallreduce(mine, agreed, 3, MPI_INT, MPI_MAX, comm.get(), &request));
  wait_until(
      [&] { return completed(request); }, options.deadline,
      [&] { return fmt::format("rank {} of {} waited for its peers to begin a step", comm.rank(), comm.size()); });
  if (agreed[1] != 0) agree(comm, failure);
  agreed_slices = agreed[0];
  agreed_guesses = agreed[2] != 0;
}

StepResult Transformer::forward(std::span<const SequenceChunk> chunks, bool guesses) {
  impl_->statistics = {};
  impl_->lap_start = wall_now().value;
  impl_->agree_on_step(chunks, guesses);
  impl_->lap(impl_->statistics.exchange);
  return impl_->run(chunks, {}, false);
}

StepResult Transformer::draft(std::span<const DraftChunk> chunks) {
  Impl& m = *impl_;
  expect(m.mtp != nullptr, "Transformer::draft without an MTP module");
  m.draft_chunks.clear();
  for (const DraftChunk& chunk : chunks) {
    expect(chunk.hidden.size() == chunk.tokens.size() * static_cast<std::size_t>(m.config.hidden_size),
           "Transformer::draft: hidden is not [tokens, hidden_size]");
    m.draft_chunks.push_back({chunk.cache, chunk.tokens, chunk.all_logits});
  }
  m.check_chunks(m.draft_chunks, m.draft_shape);
  m.statistics = {};
  m.lap_start = wall_now().value;
  // No more tokens than in the last forward(), so no more slices: nothing to agree on.
  m.plan.build(m.draft_chunks, m.options.max_batch_tokens);
  expect(static_cast<int>(m.plan.slices().size()) <= m.agreed_slices, "Transformer::draft: more than forward() had");
  return m.run(m.draft_chunks, chunks, true);
}

}  // namespace supernode::moe
