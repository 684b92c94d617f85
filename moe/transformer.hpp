#pragma once
// The face of the module: a DeepSeek-V3-architecture model, its routed experts spread over the ranks of a communicator.

#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "moe/attention_path.hpp"
#include "moe/compute_type.hpp"
#include "moe/expert_places.hpp"
#include "moe/kv_cache.hpp"
#include "moe/model_config.hpp"
#include "moe/sequence_chunk.hpp"
#include "moe/sequence_state.hpp"
#include "runtime/core/mpi/communicator.hpp"

namespace supernode::collectives {
struct ExchangeConfig;
struct SelectionRules;
}  // namespace supernode::collectives

namespace supernode::moe {

class Checkpoint;

struct TransformerOptions {
  ComputeType type = ComputeType::f32;  ///< of the matrices; see README.md
  /// Tokens of a rank that go through the layers at once. Sizes all buffers, those of the exchange too; a step with
  /// more tokens is cut into slices.
  int max_batch_tokens = 256;
  std::string exchange = "auto";  ///< algorithm of the token exchange
  int typical_tokens = 0;         ///< of a rank in a step, for which "auto" chooses; 0: max_batch_tokens
  /// By which "auto" chooses; null: the rules that ship.
  std::shared_ptr<const collectives::SelectionRules> exchange_rules = {};
  double deadline = 120;  ///< s, for every wait for a peer
  int threads = 1;        ///< of oneDNN in this process
  int max_positions = 0;  ///< longest sequence; 0: the model's own. Beyond that RoPE is extrapolated
  AttentionPath attention = AttentionPath::automatic;
  /// Of a step, 1 or 2. Two halve each slice and take turns: the exchange of one goes on while the other computes.
  /// Results have the same bits. Equal on all ranks; a rank with few tokens has nothing in one.
  int microbatches = 1;
  bool mtp = false;  ///< load the MTP module, if the model has one, and keep hidden rows for it
  /// How much of the module draft() uses. A guess is verified, so it may be cheaper than the architecture says.
  int draft_experts = 0;  ///< routed experts of a token, its best; 0: as many as the model's layers
  int draft_window = 0;   ///< latest tokens that a token attends to, at least; 0: all
};

/// The exchange that a transformer of `config` makes (which has routed experts): what a plan of its memory is made
/// from.
collectives::ExchangeConfig exchange_config(const ModelConfig& config, const TransformerOptions& options);

/// Consecutive tokens of a step's chunk.
struct ChunkPiece {
  int chunk = 0, first = 0, count = 0;  ///< of this rank
  /// With those of the other ranks, where they share the chunk (SequenceChunk::split_home): `count` may then be 0.
  int all_first = 0, all_count = 0;
};

/// Whether a rank wants a draft() after a step.
enum class Guesses { none, wanted };

/// Whether the token behind the last one of a chunk is known.
enum class Behind { known, unknown };

/// What forward() and draft() return. Valid until the next call of either, `hidden` until the next forward().
struct StepResult {
  /// [n_rows, vocab]: for each chunk in order one row (its last position), or one for each token with all_logits.
  std::span<const float> logits;
  int n_rows = 0, vocab_size = 0;
  /// [tokens of all chunks, hidden_size] after the final norm: what forward() gives with an MTP module. Else empty. Of a
  /// chunk that ranks share: those of this rank, see Transformer::pieces().
  std::span<const float> hidden;
  /// No rank had a token: the loop of a rank that only lends its experts may end.
  bool idle = false;
  /// Some rank asked for guesses: all call draft() next, or none does.
  bool guesses = false;

  std::span<const float> row(int i) const {
    return logits.subspan(static_cast<std::size_t>(i) * static_cast<std::size_t>(vocab_size),
                          static_cast<std::size_t>(vocab_size));
  }
};

/// Where the wall time of a step went on this rank, s. `exchange` holds the waits for slower peers.
struct StepStatistics {
  double attention = 0;  ///< projections and scores
  double experts = 0;    ///< routed ones
  double dense = 0;      ///< dense layers, shared experts, the MTP module's joining product
  double gate = 0, head = 0, exchange = 0;
  double other = 0;  ///< norms, embedding, additions
  int tokens = 0;    ///< of this rank
  int slices = 0;    ///< agreed over the ranks
  double total() const { return attention + experts + dense + gate + head + exchange + other; }
};

/// Cost of matrix products alone.
struct ProductTimes {
  double seconds = 0;          ///< as the model computes them
  double library_seconds = 0;  ///< all by oneDNN, in f32 where the model's own kernels have bf16 weights
  double operations = 0;
  std::map<std::string, double> implementations;  ///< operations by what computed them: oneDNN's name, or "own:..."
};

/// Whether a model notes how many rows its steps send to each expert.
enum class RoutingRecord { none, kept };

/// What a layer did with a slice of this rank's tokens, for tests and for recording the load of experts.
struct LayerTrace {
  int layer = 0, rows = 0;
  std::span<const float> output;             ///< [rows, hidden] after the layer
  std::span<const std::int32_t> expert_ids;  ///< [rows, topk], best first; empty for a dense layer
  std::span<const float> expert_weights;     ///< [rows, topk]
};

/// Attention, norms, dense layers, shared experts and head are computed for a rank's own sequences on that rank; routed
/// experts are partitioned over all ranks and reached by the token exchange. Results in f32 do not depend on the number
/// of ranks beyond the rounding of sums over experts, nor on the other sequences in the step. (A step of more tokens
/// than max_batch_tokens is cut, and a piece of a sequence may take another way through attention than the whole: then
/// results agree to rounding.)
class Transformer {
 public:
  /// Reads the checkpoint's shared weights and this rank's experts, and allocates all buffers. Collective over `ep`,
  /// with equal arguments; `ep` is duplicated and may go.
  /// @throws AgreedError (usage) for a bad checkpoint or option, on all ranks.
  Transformer(const std::string& checkpoint_dir, const TransformerOptions& options, const Communicator& ep);
  /// The same from an open checkpoint. Collective.
  Transformer(Checkpoint checkpoint, const TransformerOptions& options, const Communicator& ep);
  ~Transformer();
  Transformer(Transformer&&) noexcept;
  Transformer& operator=(Transformer&&) noexcept;

  const ModelConfig& config() const;
  /// An empty cache of the right shape. Local.
  KvCache make_cache() const;
  /// The same for the MTP module's layer: for draft() only.
  KvCache make_draft_cache() const;
  /// An empty state of a sequence: both caches, the second one only if can_draft(). forward() fills `main` only; its
  /// owner notes what the module has not seen. Local.
  SequenceState make_state() const;
  int rank() const;          ///< in the communicator of the model
  int microbatches() const;  ///< of a step
  /// Whether there is an MTP module, so that draft() may be called.
  bool can_draft() const;

  /// One step for the sequences of this rank. Collective over `ep`; a rank may pass no chunks. The number of exchange
  /// rounds (slices x MoE layers) is agreed by one small allreduce.
  /// A chunk that all ranks share (SequenceChunk::split_home) goes through attention sequence parallel, by head, and
  /// sequence parallel again; slices then have up to max_batch_tokens of it on each rank. Its results are those of one
  /// rank but for rounding.
  /// @param guesses this rank's wish; agreed by the same allreduce
  /// @throws AgreedError (usage) on all ranks when a chunk of any rank is empty, holds an id outside the vocabulary,
  /// goes beyond max_position_embeddings or has a cache that is not make_cache()'s, or when ranks do not share the same
  /// chunks; caches are then unchanged.
  /// TimeoutError when a peer stays away.
  StepResult forward(std::span<const SequenceChunk> chunks, Guesses guesses = Guesses::none);

  /// Takes part in a step in place of forward(), to end the work of all ranks: `failure` is this rank's reason, as a
  /// logit that is not finite. Collective with the others' forward() or abandon(). @throws AgreedError on all ranks.
  [[noreturn]] void abandon(const std::exception_ptr& failure);

  /// Agrees on the step that follows before its tokens are known: a draft(), or none on all ranks, and then a
  /// forward(). This rank has at most `tokens` in each. These calls then agree on nothing, so a wrong chunk is an error
  /// of its rank only. Collective over `ep`.
  void begin_step(int tokens);

  /// Guesses for the token after next by the MTP module: logits rows as forward() gives them. Collective over `ep`,
  /// after a forward() or begin_step(); a rank may pass no chunks, and at most as many tokens as it gave to that call.
  /// Nothing is agreed on, so a wrong chunk is an error of its rank only (UsageError; too many tokens panic): check
  /// tokens before. Tokens without logits of their own cost little: only their place in the cache is computed.
  StepResult draft(std::span<const DraftChunk> chunks);
  /// Shows the module the positions of a state that it has not seen, as far as the tokens behind them are known: gives
  /// them their places in its cache, and makes no guess. Local.
  /// @param next the token behind the last position; none: that position stays unseen. @pre state.complete()
  void catch_up(SequenceState& state, std::optional<std::int32_t> next = std::nullopt);

  /// The same of a chunk that all ranks share, after its forward(): afterwards each rank's module has all its positions.
  /// Collective over `ep`. @param follows the token behind each token of the chunk. Where that behind the last is not
  /// known it may be any; the module then has not seen the last position
  /// @param hidden what forward() gave of the chunk to this rank
  void catch_up_shared(SequenceState& state, std::span<const std::int32_t> follows, std::span<const float> hidden,
                       int home, Behind behind);
  /// Each value becomes its largest over ranks. Collective over `ep`, between steps.
  void take_largest(std::span<double> values);

  /// Notes the matrix products in the steps that follow, until replay_products(). Where they lie in memory, too: caches
  /// must be reserved, and a step as long must have been made before, so that nothing grows meanwhile. Local.
  void record_products();
  /// Repeats them, and nothing else, on the same memory. Caches and buffers must be as they were; the results of the
  /// last step are overwritten. Local.
  ProductTimes replay_products();

  /// What the exchange of this rank has allocated; 0 without routed experts.
  std::size_t exchange_bytes() const;
  /// Bytes of the rows that this rank has sent to experts since construction, there and back; a row to itself counts.
  std::uint64_t exchanged_bytes() const;
  /// The same of rows to experts of other ranks.
  std::uint64_t exchanged_bytes_away() const;
  /// Where the experts are. Local; the model outlives it.
  ExpertPlaces expert_places();

  /// Times of the last forward(), draft(), catch_up() or begin_step().
  const StepStatistics& last_step() const;

  /// Whether the steps that follow count their rows. At first none does. Local; costs a pass over the chosen experts.
  void record_routing(RoutingRecord record);
  /// [MoE layers, n_routed_experts]: token rows that this rank sent to each slot of an expert in the last forward(), all
  /// slices together. A token is a row for each expert that it chose. Layers are those with experts, in order; that of
  /// draft() is not among them. Slots are in the order of the ranks that have them (collectives::ExpertPartition); unless
  /// experts have changed places they hold the checkpoint's experts in order. Valid until the next forward(); empty
  /// unless routing is recorded.
  std::span<const std::int32_t> routed_rows(int microbatch = 0) const;
  /// [n_routed_experts]: the same of the MTP module's layer in the last draft(). Valid until the next draft().
  std::span<const std::int32_t> drafted_rows(int microbatch = 0) const;
  /// Which tokens of its chunks the last forward() had in a microbatch, in order. To be asked before the next call that
  /// computes. Local.
  std::vector<ChunkPiece> pieces(int microbatch) const;

  /// Called after each layer and microbatch of a slice that has tokens of this rank; empty: none.
  void set_observer(std::function<void(const LayerTrace&)> observer);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace supernode::moe
