#pragma once
// Request traces: Mooncake JSON lines, Azure CSV (2023 and 2024), BurstGPT CSV. Pure.

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
  /// Without hash ids: tokens at the prompt's beginning that are those of its group.
  std::int64_t prefix_tokens = 0;
  std::uint64_t prefix_group = 0;
};

struct Trace {
  std::string format;                  ///< "mooncake", "azure", "burstgpt" or "generated"
  int block_tokens = 0;                ///< tokens that one hash id stands for; 0 without hash ids
  std::vector<TraceRequest> requests;  ///< by arrival
  std::size_t without_output = 0;      ///< rows of zero output tokens that were left out, or raised to one token
};

/// What becomes of rows that ask for no output. Those without a prompt, too, as BurstGPT has of failed requests, are
/// left out in any case.
enum class ZeroOutput { skip, one };

struct TraceOptions {
  std::size_t max_requests = 0;  ///< 0: all
  int block_tokens = 512;        ///< of a Mooncake trace: prompt tokens of one hash id
  double time_unit_s = 1e-3;     ///< of a Mooncake trace: what its timestamps count
  ZeroOutput zero_output = ZeroOutput::skip;
};

/// "ms", "s" or "us" as seconds. @throws UsageError listing them.
double parse_time_unit(const std::string& name);
/// "skip" or "one". @throws UsageError listing them.
ZeroOutput parse_zero_output(const std::string& name);

/// Recognises the format by its first line that is not blank, and parses it. A byte order mark does no harm.
/// @param source the file's name, for messages.
/// @throws UsageError "<source>:<line>: ..." for an empty file, an unknown format, a truncated or malformed line, a
/// length out of range, hash ids whose number does not fit the prompt (with the block size that would), timestamps that
/// are in another unit, absurd, or go backwards.
Trace parse_trace(std::string_view text, const std::string& source, const TraceOptions& options = {});

}  // namespace supernode::serving
