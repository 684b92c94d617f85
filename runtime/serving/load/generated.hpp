#pragma once
// Requests that no trace has: lengths are drawn, and prompts share prefixes by groups. Pure.

#include <cstdint>

#include "runtime/serving/load/lengths.hpp"
#include "runtime/serving/load/trace.hpp"

namespace supernode::serving {

struct GeneratedOptions {
  std::size_t requests = 100;
  Lengths prompt, output;
  double prefix_share = 0;  ///< of each prompt's tokens: the beginning that it shares with its group, 0 to 1
  int prefix_groups = 1;    ///< a request's group is drawn, each as likely
  std::uint64_t seed = 0;
  /// Prompt + output of a request are at most this, tokens at the trace's scale: where a distribution has no longest
  /// length, output and then prompt are cut. 0: no limit.
  std::int64_t max_length = 0;
};

struct GeneratedTrace {
  Trace trace;          ///< "generated"; all requests come at once, so a rate says when they come
  std::size_t cut = 0;  ///< requests that were cut to max_length
};

/// A function of the options: the n-th request depends on seed and n alone. Prompts of one group begin with the same
/// tokens, the longer prefix with the shorter one.
GeneratedTrace generate(const GeneratedOptions& options);

}  // namespace supernode::serving
