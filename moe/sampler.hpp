#pragma once
// Drawing the next token from logits.

#include <cstdint>
#include <span>

#include "runtime/core/error.hpp"

namespace supernode::moe {

struct SamplerOptions {
  double temperature = 0;  ///< 0: greedy
  double top_p = 1;        ///< the smallest set of likeliest tokens with at least this probability; (0, 1]
  std::uint64_t seed = 0;
};

/// Whether every logit is a number: neither NaN nor infinite. What is drawn from other rows means nothing, so callers
/// ask this of every row before they choose from it. O(vocab).
bool all_finite(std::span<const float> logits);
/// What to say of a row that is not: how many logits of the token for `position` are no numbers, and the first of them.
CheckError not_finite(std::span<const float> logits, int position);

/// The most likely token; of equals the lowest. NaN loses against every number.
std::int32_t most_likely(std::span<const float> logits);

/// Draws the token at `position` of request `request`. Pure: the draw depends on (seed, request, position) only, so a
/// text is the same on any number of ranks and in any batch. O(vocab log vocab) unless greedy.
std::int32_t sample(std::span<const float> logits, const SamplerOptions& options, std::uint64_t request, int position);

}  // namespace supernode::moe
