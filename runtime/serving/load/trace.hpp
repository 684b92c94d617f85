#pragma once
// Request traces: Mooncake JSONL and Azure CSV. Pure.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace supernode::serving {

/// One request of a trace, at the trace's own scale.
struct TraceRequest {
  double arrival_s = 0;  ///< since the trace's first request
  std::int64_t input_tokens = 0;
  std::int64_t output_tokens = 0;
  /// One id for each block of `Trace::block_tokens` prompt tokens; equal ids mean equal content and equal prefix. Empty
  /// where the trace has none.
  std::vector<std::int64_t> hash_ids;
};

struct Trace {
  std::string format;                  ///< "mooncake" or "azure"
  int block_tokens = 0;                ///< tokens that one hash id stands for; 0 without hash ids
  std::vector<TraceRequest> requests;  ///< by arrival
};

/// Recognises the format by its first line and parses at most `max_requests` (0: all).
/// @param source the file's name, for messages.
/// @throws UsageError "<source>:<line>: ..." for an empty file, an unknown format, a truncated or malformed line, a
/// non-positive length, hash ids that do not cover the prompt, arrivals that go backwards.
Trace parse_trace(std::string_view text, const std::string& source, std::size_t max_requests = 0);

}  // namespace supernode::serving
