#include "runtime/serving/serving_config.hpp"

namespace supernode::serving {

void describe(OptionTable& t, ServingConfig& c) {
  t.add("serving", "prefill_instances", c.prefill_instances, "prefill instances").range(1, 65536);
  t.add("serving", "prefill_dies", c.prefill_dies, "dies (ranks) of a prefill instance").range(1, 65536);
  t.add("serving", "decode_instances", c.decode_instances, "decode instances").range(1, 65536);
  t.add("serving", "decode_dies", c.decode_dies, "dies (ranks) of a decode instance").range(1, 65536);
  t.add("serving", "cache_ranks", c.cache_ranks, "ranks that lend their DRAM to the pool; 0: no context caching")
      .range(0, 65536);
  t.add("serving", "max_prefill_tokens", c.max_prefill_tokens, "prompt tokens of one prefill step").range(1, 1e9);
  t.add("serving", "chunk_tokens", c.chunk_tokens,
        "a longer prompt is computed in pieces of at most this, over several steps that others share; 0: in one")
      .range(0, 1e9);
  t.add("serving", "split_prompts", c.split_prompts,
        "all dies of a prefill instance compute a prompt of so many tokens or more, each a share of them; 0: one die "
        "does")
      .range(0, 1e9);
  t.add("serving", "max_queue", c.max_queue, "a request that comes while as many wait is refused; 0: none is")
      .range(0, 1e9);
  t.add("serving", "max_batch_tokens", c.max_batch_tokens, "tokens of a rank that go through a layer at once")
      .range(1, 65536);
  t.add("serving", "decode_kv_tokens", c.decode_kv_tokens, "KV capacity of a decode die, tokens").range(2, 1e9);
  t.add("serving", "max_decode_batch", c.max_decode_batch, "requests a decode die holds at most").range(1, 65536);
  t.add("serving", "tpot_objective_ms", c.tpot_objective_ms,
        "a decode instance has as many requests as keep the time per output token below this; 0: no objective")
      .range(0, 1e9);
  t.add("serving", "max_model_len", c.max_model_len,
        "longest prompt plus output, tokens; 0: the model's own max_position_embeddings; more extrapolates RoPE")
      .range(0, 1e9);
  t.add("serving", "context_cache", c.context_cache, "prompts take their prefixes from the pool, and store theirs");
  t.add("serving", "context_block_tokens", c.context_block_tokens, "tokens of a context-cache block").range(1, 4096);
  t.add("serving", "handover_piece", c.handover_piece, "KV goes from die to die in messages of at most this size")
      .range(1, 64u << 20);
  t.add("serving", "exchange", c.exchange, "token-exchange algorithm of the instances");
  t.add("serving", "microbatches", c.microbatches,
        "halves of a step that take turns, the exchange of one under the computation of the other: 1 (none) or 2")
      .range(1, 2);
  t.add("serving", "mtp", c.mtp,
        "guess tokens in decode with the model's MTP module and verify them, which changes none of them")
      .choices({"off", "on"});
  t.add("serving", "mtp_experts", c.mtp_experts,
        "routed experts that a guess uses for a token, the best first; 0: as many as the model")
      .range(0, 1 << 20);
  t.add("serving", "mtp_window", c.mtp_window, "latest tokens that a guess attends to, at least; 0: all")
      .range(0, 1 << 28);
  t.add("serving", "rebalance_interval", c.rebalance_interval,
        "every so many steps an instance looks how its experts were used, and may move some to other dies; 0: never")
      .range(0, 1e9);
  t.add("serving", "rebalance_threshold", c.rebalance_threshold,
        "experts of a layer move when its busiest die has more than this times the mean of the dies' rows")
      .range(1, 1e3);
  t.add("serving", "rebalance_moves", c.rebalance_moves, "experts that one rebalancing moves to other dies at most")
      .range(1, 1e9);
  t.add("serving", "rebalance_bytes_per_step", c.rebalance_bytes_per_step,
        "weights of experts that a die sends, and as much that it receives, beside a step at most")
      .range(1, 64u << 20);
  collectives::describe(t, c.selection);
}

}  // namespace supernode::serving
