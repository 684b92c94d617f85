#pragma once
// The sizes and limits of a serving deployment: section [serving].

#include <string>

#include "collectives/selection/selection_options.hpp"
#include "runtime/core/options.hpp"

namespace supernode::serving {

struct ServingConfig {
  int prefill_instances = 2;
  int prefill_dies = 1;  ///< dies (ranks) of one prefill instance
  int decode_instances = 1;
  int decode_dies = 4;  ///< dies (ranks) of one decode instance
  int cache_ranks = 1;  ///< CPU hosts of the pool; 0: no context caching

  int max_prefill_tokens = 8192;  ///< prompt tokens that one prefill step takes, unless one piece alone exceeds it
  int chunk_tokens = 0;           ///< longest piece of a prompt that one step computes; 0: prompts are not cut
  int split_prompts = 0;       ///< prompts of so many tokens or more are computed by all dies of an instance; 0: none
  int max_queue = 0;           ///< requests that may wait; one that comes then is refused. 0: no limit
  int max_batch_tokens = 512;  ///< tokens of a rank that go through a layer at once; longer steps are cut
  int decode_kv_tokens = 131072;     ///< KV capacity of a decode die, tokens
  int max_decode_batch = 64;         ///< requests that a decode die holds at most
  double tpot_objective_ms = 0;      ///< of time per output token, which bounds decode batches; 0: no objective
  int max_model_len = 0;             ///< longest prompt + output, tokens; 0: the model's max_position_embeddings
  bool context_cache = true;         ///< prompts take their prefixes from the pool, and store theirs
  int context_block_tokens = 128;    ///< tokens of a block of the context cache
  Bytes handover_piece{16u << 20};   ///< KV goes from die to die in messages of at most this size, or of one token
  std::string exchange = "auto";     ///< token-exchange algorithm
  int microbatches = 1;              ///< of a step that computes, 1 or 2
  std::string mtp = "off";           ///< or "on": the model's MTP module guesses tokens, which the model verifies
  int mtp_experts = 2;               ///< routed experts that a guess uses for a token; 0: as many as the model
  int mtp_window = 64;               ///< latest tokens that a guess attends to, at least; 0: all
  int rebalance_interval = 0;        ///< steps of an instance between two looks at how its experts are used; 0: none
  double rebalance_threshold = 1.2;  ///< load of the busiest die over the mean from which experts change dies
  int rebalance_moves = 64;          ///< experts that one rebalancing moves at most
  Bytes rebalance_bytes_per_step{16u << 20};  ///< of weights that a die sends, and receives, beside a step at most
  collectives::SelectionOptions selection;

  bool speculates() const { return mtp == "on"; }
  /// Whether all dies of its prefill instance share a prompt.
  bool splits(int prompt_tokens) const {
    return split_prompts > 0 && prefill_dies > 1 && prompt_tokens >= split_prompts;
  }
};

void describe(OptionTable& table, ServingConfig& config);

}  // namespace supernode::serving
