#pragma once
// A rank's share of a step: weights, buffers, and the arithmetic from tokens to logits.

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "collectives/token_exchange.hpp"
#include "moe/expert_places.hpp"
#include "moe/model/activations.hpp"
#include "moe/model/layer_pass.hpp"
#include "moe/model/step_clock.hpp"
#include "moe/model/weights.hpp"
#include "moe/operators/step_plan.hpp"
#include "moe/transformer.hpp"

namespace supernode::moe {

/// Runs steps whose number of slices the ranks have agreed on. All but the constructor is collective, by the exchange.
class StepRunner {
 public:
  /// Reads the weights; without an exchange. Local. @param n_ranks that the experts are spread over
  /// @throws UsageError as Checkpoint::read.
  StepRunner(Checkpoint& checkpoint, const TransformerOptions& options, const ExpertRange& mine, int n_ranks);
  /// Before the first step of a model with routed experts.
  void set_exchange(std::unique_ptr<collectives::TokenExchange> exchange) { exchange_ = std::move(exchange); }
  /// Before the first step with a chunk that the ranks share. @param comm of these, outlives this
  void set_sharing(const Communicator& comm);

  const ModelConfig& config() const { return weights_.config; }
  bool has_mtp() const { return weights_.mtp != nullptr; }
  const collectives::TokenExchange* exchange() const { return exchange_.get(); }
  Gemm& gemm() { return gemm_; }
  StepClock& clock() { return clock_; }
  const StepClock& clock() const { return clock_; }
  /// Called after each layer and microbatch that has rows.
  void set_observer(std::function<void(const LayerTrace&)> observer) { observer_ = std::move(observer); }
  void record_routing(RoutingRecord record);
  ExpertPlaces expert_places();
  /// Of the last run_main() and run_draft(), see Transformer::routed_rows() and drafted_rows().
  std::span<const std::int32_t> routed_rows(int microbatch) const { return part_of(routed_rows_, microbatch); }
  std::span<const std::int32_t> drafted_rows(int microbatch) const { return part_of(drafted_rows_, microbatch); }
  /// Of the last plan(), see Transformer::pieces().
  std::vector<ChunkPiece> pieces(int microbatch) const;

  /// Cuts the chunks into slices. @returns how many this rank has of its own.
  int plan(std::span<const SequenceChunk> chunks);
  /// A step of the main model: `slices` of each rank's own chunks, empty ones beyond this rank's, and then those of chunks
  /// that all share. The chunks are those of plan().
  StepResult run_main(std::span<const SequenceChunk> chunks, int slices);
  /// The same of the MTP module, `drafts` being as many as chunks.
  StepResult run_draft(std::span<const SequenceChunk> chunks, std::span<const DraftChunk> drafts, int slices);
  /// Only fills the module's caches. Local, but collective for chunks that all share.
  void fill_draft_cache(std::span<const SequenceChunk> chunks, std::span<const DraftChunk> drafts, int slices);

 private:
  /// A microbatch of the slice that is under way. Where there are two, they take turns through each layer.
  struct Microbatch {
    Microbatch(const ModelConfig& config, int max_rows, int n_ranks) : activations(config, max_rows, n_ranks) {}
    Activations activations;
    std::span<const StepPlan::Piece> pieces;
  };
  /// A pass of each microbatch; made for each step, since the exchange comes late.
  std::vector<LayerPass> make_passes();

  /// Takes a slice from tokens to logits and hidden rows. @param hidden_floats of the slices before; grows
  void run_slice(const StepPlan::Slice& slice, std::span<const SequenceChunk> chunks, std::span<LayerPass> passes,
                 std::size_t& hidden_floats);
  void begin_slice(const StepPlan::Slice& slice, std::span<const SequenceChunk> chunks, const TokenEmbedding& rows_of);
  /// Lays out the microbatch's rows in the caches and fills `hidden` with embedded tokens.
  void begin_microbatch(Microbatch& microbatch, std::span<const SequenceChunk> chunks, const TokenEmbedding& rows_of);
  /// Takes all microbatches through the main model's layers.
  void run_layers(std::span<LayerPass> passes);
  /// The MTP module's input from `hidden`, which holds embedded tokens, and the chunks' hidden rows.
  void join(Microbatch& microbatch, std::span<const DraftChunk> drafts);
  /// begin_slice() of the module, and its rows in the caches.
  void fill_draft_slice(std::span<LayerPass> passes, const StepPlan::Slice& slice,
                        std::span<const SequenceChunk> chunks, std::span<const DraftChunk> drafts);
  /// Keeps of a draft the rows that need logits, between the module's two halves.
  void keep_rows_with_logits(Microbatch& microbatch);
  void trace(const Microbatch& microbatch, int index);
  /// Adds the microbatch's rows in the layer that it has just been through to `counts`, [slots]; empty: not recorded.
  void count_rows(const Microbatch& microbatch, std::span<std::int32_t> counts) const;
  std::span<std::int32_t> counts_of(std::vector<std::int32_t>& rows, std::size_t microbatch, int moe_layer) const;
  std::span<const std::int32_t> part_of(const std::vector<std::int32_t>& rows, int microbatch) const;
  /// What of a slice's rows is still there: all, or only those with logits.
  enum class Rows { all, with_logits };
  void write_logits(const StepPlan::Slice& slice, Rows there, const std::vector<float>& norm, const PackedMatrix& head);
  StepResult result(std::size_t hidden_floats, int slices) const;

  TransformerOptions options_;
  Gemm gemm_;
  Weights weights_;
  std::unique_ptr<collectives::TokenExchange> exchange_;  ///< null for a model without routed experts
  std::vector<std::unique_ptr<Microbatch>> microbatches_;
  std::unique_ptr<HeadExchange> heads_;  ///< null: no chunk is shared
  StepPlan::Ranks ranks_;
  StepPlan plan_;
  StepClock clock_;
  HugePageBuffer<float> logits_;      ///< grows with the rows asked for
  HugePageBuffer<float> all_hidden_;  ///< with an MTP module: [tokens of a step, hidden_size]
  HugePageBuffer<float> joined_;      ///< with an MTP module: [rows of a microbatch, 2 hidden_size]
  HugePageBuffer<float> head_in_;     ///< [rows of a slice, hidden_size]: those that need logits
  std::function<void(const LayerTrace&)> observer_;
  std::vector<std::int32_t> routed_rows_;   ///< [microbatches, MoE layers, experts]; empty: not recorded
  std::vector<std::int32_t> drafted_rows_;  ///< [microbatches, experts]
};

}  // namespace supernode::moe
