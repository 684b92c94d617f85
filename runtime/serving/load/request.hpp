#pragma once
// A request as it is served.

#include <cstdint>
#include <limits>
#include <vector>

#include "moe/sampler.hpp"

namespace supernode::serving {

/// Names a request for the whole run, and is the stream of its samples. Never an index.
using RequestId = std::uint64_t;

struct Request {
  RequestId id = 0;
  double arrival_s = 0;  ///< on the run's clock, s
  int max_output = 0;    ///< tokens, at least 1
  std::vector<std::int32_t> prompt;
  moe::SamplerOptions sampler = {};
  std::vector<std::int32_t> stop = {};  ///< tokens that end it when they are drawn; they count as output
  /// When whoever sent it loses interest, s on the run's clock; not before its arrival.
  double cancel_s = std::numeric_limits<double>::infinity();
  /// Tokens whose KV lies on the decode die already; such a request has no prompt and skips prefill. 0: an ordinary one.
  int placed_tokens = 0;

  int prompt_tokens() const { return placed_tokens > 0 ? placed_tokens : static_cast<int>(prompt.size()); }
};

}  // namespace supernode::serving
