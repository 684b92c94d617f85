#pragma once
// From a trace to the requests of a run: scaled lengths and times, and real prompt tokens. Pure.

#include <cstdint>
#include <vector>

#include "runtime/serving/load/request.hpp"
#include "runtime/serving/load/trace.hpp"

namespace supernode::serving {

struct WorkloadOptions {
  double time_scale = 1;    ///< arrivals are multiplied by this; 0: all at once
  double length_scale = 1;  ///< prompt, output and block lengths are multiplied by this
  /// Requests/s of a process that replaces the trace's arrivals (arrival_gaps.hpp); 0: as traced; infinite: all at once.
  double request_rate = 0;
  std::uint64_t seed = 0;
  moe::SamplerOptions sampler = {};  ///< of every request
  double burstiness = 1;             ///< of the process at a rate; 1: Poisson
  double load_factor = 1;            ///< the same requests so many times as fast: all arrival times are divided by it
  std::vector<std::int32_t> stop = {};  ///< tokens that end a request
  double cancel_share = 0;              ///< of the requests, chosen by the seed, are cancelled
  double cancel_within_s = 1;           ///< at a moment that is uniform in this span from their arrival on
};

/// Builds the requests; a request's id is its place in the trace. Blocks of the trace scale with the prompt: block i
/// covers tokens [round(b i), round(b (i + 1))) with b = block_tokens x length_scale, and its tokens are a function of
/// (hash id, offset, seed) alone, so equal ids are equal tokens at equal places, and prefix hits are real. Requests
/// without hash ids share the prefix of their group, if they have one. Lengths are at least 1.
/// @param vocabulary token ids are in [0, vocabulary); for byte vocabularies (256) the tokens are printable words.
/// @throws UsageError naming the request when prompt + output exceed `max_length` tokens.
std::vector<Request> make_workload(const Trace& trace, const WorkloadOptions& options, int vocabulary, int max_length);

}  // namespace supernode::serving
