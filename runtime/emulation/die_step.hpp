#pragma once
// What one die did in one step, real or drawn: the record from which the step is priced. Times are not in it.

#include <cstddef>
#include <cstdint>
#include <vector>

#include "runtime/emulation/moe_stage.hpp"

namespace supernode::emulation {

/// The sequences that a die works on, as far as they decide what attention costs. Sums, since costs are linear in them;
/// double because a planned step may have half a sequence.
struct AttentionWork {
  double sequences = 0;
  double tokens = 0;    ///< new ones, all sequences
  double context = 0;   ///< cached tokens that are read, the new ones included
  double attended = 0;  ///< pairs of a new token and a token that it sees

  /// A sequence of `cached` tokens gets `fresh` new ones. A new token sees those before it, so half of the new ones.
  void add(double fresh, double cached) {
    sequences += 1;
    tokens += fresh;
    context += cached + fresh;
    attended += fresh * (cached + fresh / 2);
  }
  AttentionWork& operator+=(const AttentionWork& other) {
    sequences += other.sequences;
    tokens += other.tokens;
    context += other.context;
    attended += other.attended;
    return *this;
  }
};

/// A die's part of one microbatch.
struct MicrobatchStep {
  AttentionWork work = {};
  /// Token rows that this die sends to each slot, [layers][slots()], layer by layer: the MoE layers of the model, then
  /// the speculative module's. A token is a row for each expert that it chose.
  std::vector<std::int32_t> rows = {};
};

/// Bytes that a die read from the pool before its step.
struct PoolLoad {
  int owner = 0;  ///< cache rank, from 0
  double bytes = 0;
};

/// The record of one die.
struct DieStep {
  std::vector<MicrobatchStep> microbatches =
      {};  ///< as many on each die of the instance; a die may have nothing in one
  std::vector<PoolLoad> loads = {};
  double slowness = 1;  ///< its computing takes so many times as long as the machine says

  AttentionWork work() const {
    AttentionWork all;
    for (const MicrobatchStep& microbatch : microbatches) all += microbatch.work;
    return all;
  }
  /// The same in one microbatch. Exact for decode, where each sequence is in one of the two.
  DieStep joined() const {
    DieStep whole{{microbatches.front()}, loads, slowness};
    MicrobatchStep& all = whole.microbatches.front();
    for (std::size_t m = 1; m < microbatches.size(); ++m) {
      all.work += microbatches[m].work;
      for (std::size_t i = 0; i < all.rows.size(); ++i) all.rows[i] += microbatches[m].rows[i];
    }
    return whole;
  }
};

/// Slots of a layout in the order of a record: the routed experts of die 0, of die 1, ...; then one for each die that
/// holds nothing but the shared experts, which are the last dies of the instance.
inline int record_slots(const ExpertLayout& layout, const ModelShape& model) {
  return layout.slots(model) + layout.shared_dies;
}

}  // namespace supernode::emulation
