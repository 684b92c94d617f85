#pragma once
// What the parts of a layer that are not its experts cost one die.

#include "runtime/emulation/die_step.hpp"
#include "runtime/emulation/machine/machine.hpp"
#include "runtime/emulation/machine/terms.hpp"

namespace supernode::emulation {

/// Attention of one layer of decode, with the weights absorbed. Sequences are data parallel: all of it is the die's own.
Terms decode_attention(const Machine& machine, const ModelShape& model, const AttentionWork& work,
                       CoreShare share = {});

/// How a token is picked from its logits.
enum class Picking {
  sample,  ///< softmax, top-p by a sort
  greedy,  ///< the largest logit, as drafts do
};
/// Logits of `tokens` tokens by the bf16 head that each die holds whole, and picking a token for each.
Terms decode_head(const Machine& machine, const ModelShape& model, double tokens, Picking picking);

/// The speculative module joins the embeddings of `tokens` tokens to their last states.
ModelTime draft_join(const Machine& machine, const ModelShape& model, double tokens);

/// Attention of one layer of prefill: sequence parallel, then tensor parallel by head, then sequence parallel again.
/// `before` and `after` are a die's own tokens. `between` is its heads for all tokens of the instance: an all-gather
/// that waits for every die, the heads, and an all-to-all.
struct PrefillAttention {
  Terms before, between, after;
  ModelTime total() const { return before.total() + between.total() + after.total(); }
};

/// @param work of the die @param mean of the dies of the instance @param most the largest tokens and context of a die:
/// the collectives wait for it
PrefillAttention prefill_attention(const Machine& machine, const ModelShape& model, int dies, const AttentionWork& work,
                                   const AttentionWork& mean, const AttentionWork& most);

/// Elementwise work of prefill around its exchanges, which go through the copy engine: rows are packed before dispatch;
/// sorted by expert behind it and packed for combine; summed with the residual behind that.
ModelTime prepare_rows(const Machine& machine, const ModelShape& model, double rows);
ModelTime arrange_rows(const Machine& machine, const ModelShape& model, double rows);
ModelTime sum_rows(const Machine& machine, const ModelShape& model, double tokens);

}  // namespace supernode::emulation
