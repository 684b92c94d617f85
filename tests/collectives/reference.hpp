#pragma once
// The oracle of the token exchange: all ranks' tokens in one process, plain loops, scalar rounding.

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <vector>

#include "collectives/expert_partition.hpp"
#include "collectives/payload.hpp"

namespace supernode::test {

/// What one rank dispatches.
struct RankTokens {
  int n_tokens = 0;
  std::vector<float> rows;               ///< [n_tokens, hidden]
  std::vector<std::int32_t> expert_ids;  ///< [n_tokens, topk]
  std::vector<float> weights;            ///< [n_tokens, topk]
};

/// A row after its travel.
inline std::vector<float> travelled(collectives::Payload payload, const float* row, int hidden) {
  std::vector<float> result(static_cast<std::size_t>(hidden));
  std::copy_n(row, result.size(), result.begin());
  float largest = 0;
  for (const float x : result) largest = std::fmax(largest, std::fabs(x));
  for (float& x : result) {
    if (payload == collectives::Payload::bf16) {
      const auto bits = std::bit_cast<std::uint32_t>(x);
      const std::uint32_t below = bits & 0xffff, even = bits & 0xffff0000;
      const bool up = below > 0x8000 || (below == 0x8000 && (bits & 0x10000) != 0);
      x = std::bit_cast<float>(up ? even + 0x10000 : even);
    } else if (payload == collectives::Payload::int8) {
      x = largest == 0 ? 0 : static_cast<float>(std::nearbyint(x * (127.0f / largest))) * (largest / 127.0f);
    }
  }
  return result;
}

/// What an expert of the tests makes of x: distinct for each expert, and not linear in the rows' order.
inline float expert_output(int expert, float x) { return x * (1.0f + 0.25f * static_cast<float>(expert % 7)); }

struct ReceivedRow {
  int source, token;
  std::vector<float> values;
};

/// The rows that `rank` receives, in order.
inline std::vector<ReceivedRow> expected_rows(const std::vector<RankTokens>& all, int rank, int hidden, int topk,
                                              const collectives::ExpertPartition& experts,
                                              collectives::Payload payload) {
  std::vector<ReceivedRow> rows;
  for (int source = 0; source < static_cast<int>(all.size()); ++source)
    for (int token = 0; token < all[source].n_tokens; ++token) {
      bool wanted = false;
      for (int k = 0; k < topk; ++k) {
        const int expert = all[source].expert_ids[token * topk + k];
        wanted = wanted || (expert >= 0 && experts.rank_of(expert) == rank);
      }
      if (wanted) rows.push_back({source, token, travelled(payload, &all[source].rows[token * hidden], hidden)});
    }
  return rows;
}

/// What combine returns to the rank that dispatched `mine`: for each token, over ranks in ascending order, the rank's
/// sum over its experts in ascending order, as it travels back.
inline std::vector<float> expected_out(const RankTokens& mine, int hidden, int topk,
                                       const collectives::ExpertPartition& experts, collectives::Payload there,
                                       collectives::Payload back) {
  std::vector<float> out(mine.rows.size(), 0.0f);
  for (int token = 0; token < mine.n_tokens; ++token) {
    const std::vector<float> row = travelled(there, &mine.rows[token * hidden], hidden);
    bool first = true;
    for (int rank = 0; rank < experts.ranks(); ++rank) {
      std::vector<float> sums(hidden, 0.0f);
      bool any = false;
      for (int expert = experts.first(rank); expert < experts.first(rank + 1); ++expert)
        for (int k = 0; k < topk; ++k)
          if (mine.expert_ids[token * topk + k] == expert) {
            any = true;
            for (int i = 0; i < hidden; ++i) sums[i] += mine.weights[token * topk + k] * expert_output(expert, row[i]);
          }
      if (!any) continue;
      const std::vector<float> contribution = travelled(back, sums.data(), hidden);
      for (int i = 0; i < hidden; ++i) {
        float& x = out[token * hidden + i];
        x = first ? contribution[i] : x + contribution[i];
      }
      first = false;
    }
  }
  return out;
}

}  // namespace supernode::test
