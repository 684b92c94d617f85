#pragma once
// The buffers that the rows of one slice pass through.

#include <memory>
#include <optional>
#include <vector>

#include "moe/model/moe_block.hpp"
#include "moe/operators/attention.hpp"
#include "moe/operators/feed_forward.hpp"
#include "runtime/core/buffer.hpp"

namespace supernode::moe {

/// A range of a sequence whose rows the ranks share (collectives by head, head_exchange.hpp). Its places in the cache
/// exist already on each of them.
struct SharedRows {
  KvCache* cache = nullptr;
  int start = 0, count = 0;  ///< positions, of all ranks
  int home = 0;              ///< by which share_of() deals them out
};

/// What a slice is in the middle of its layers. Two of these let two slices be under way over one set of weights.
struct Activations {
  /// @param max_rows of a slice; @param n_ranks that the experts are spread over
  Activations(const ModelConfig& config, int max_rows, int n_ranks);

  int rows = 0;                          ///< of the slice now
  std::vector<AttentionSpan> spans;      ///< the sequences that they belong to
  std::optional<SharedRows> shared;      ///< of what they are a share; then the slice has nothing else
  HugePageBuffer<float> hidden;          ///< [max_rows, hidden_size]: the residual stream
  HugePageBuffer<float> normed, update;  ///< [max_rows, hidden_size]: input and output of half a layer
  AttentionScratch attention;            ///< holds the rows' projections between fill_cache() and attend()
  FeedForwardScratch feed_forward;
  std::unique_ptr<MoeScratch> moe;  ///< holds routing and sums of a layer; null without routed experts
};

}  // namespace supernode::moe
