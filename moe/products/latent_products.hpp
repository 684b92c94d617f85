#pragma once
// The two products of absorbed attention: queries against cached latents, and latents weighted by the result. Highway,
// run-time dispatch.
//
// A library's general product packs its operands first, which at a handful of rows costs more than the product. Here
// the cached rows are read where they lie, once for all heads and queries of a sequence. Every result is one chain of
// fused multiply-adds in the order of the summed index: its bits do not depend on how many queries or keys are in the
// call.

#include <cstddef>

namespace supernode::moe {

/// Queries are columns ("lanes"), padded to a multiple of latent_lane_unit, so that vectors run over heads and queries.
constexpr int latent_lane_unit = 8;

struct LatentProduct {
  const float* keys = nullptr;  ///< row of the first token: [width], of which `lora` are the latent
  std::ptrdiff_t stride = 0;    ///< floats from one token's row to the next
  int n_keys = 0, width = 0, lora = 0;
  int lanes = 0;       ///< columns of queries and scores, with padding
  int used_lanes = 0;  ///< the first of them, which have a context

  double score_operations() const { return 2.0 * n_keys * width * used_lanes; }
  double context_operations() const { return 2.0 * n_keys * lora * used_lanes; }
};

/// scores[key, lane] = sum_i keys[key, i] queries[i, lane]; queries [width, lanes], scores [n_keys, lanes].
void latent_scores(const LatentProduct& product, const float* queries, float* scores);

/// Softmax without the division, in place, for each lane over n_keys keys: x = exp((x - max) scale); sums[lane] is
/// their sum.
void exponentials(float* scores, int n_keys, int lanes, float scale, float* sums);

/// context[lane, c] = sum_key scores[key, lane] keys[key, c]; context [used_lanes, lora].
void latent_context(const LatentProduct& product, const float* scores, float* context);

}  // namespace supernode::moe
