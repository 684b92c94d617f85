#include "runtime/serving/load/workload.hpp"

#include <algorithm>
#include <cmath>
#include <string_view>

#include <fmt/format.h>

#include "runtime/core/error.hpp"
#include "runtime/core/random.hpp"
#include "runtime/serving/load/arrival_gaps.hpp"

namespace supernode::serving {
namespace {

constexpr std::string_view words[] = {"the",    "and",    "of",   "my",    "lord",  "king",  "love",  "night",
                                      "shall",  "thou",   "good", "sir",   "heart", "death", "sweet", "fair",
                                      "speak",  "heaven", "hand", "eyes",  "come",  "go",    "he",    "she",
                                      "is",     "with",   "not",  "a",     "to",    "in",    "crown", "blood",
                                      "friend", "noble",  "day",  "world", "sword", "mine",  "grace", "queen"};

/// `count` tokens of the stream (seed, stream). A byte vocabulary gets words and line breaks, which is what a text
/// model expects; any other gets uniform ids.
void append_tokens(std::vector<std::int32_t>& tokens, std::size_t count, std::uint64_t seed, std::uint64_t stream,
                   int vocabulary) {
  Random random(seed, stream);
  const std::size_t end = tokens.size() + count;
  if (vocabulary != 256) {
    while (tokens.size() < end)
      tokens.push_back(static_cast<std::int32_t>(random.below(static_cast<std::uint64_t>(vocabulary))));
    return;
  }
  while (tokens.size() < end) {
    for (const char c : words[random.below(std::size(words))])
      if (tokens.size() < end) tokens.push_back(static_cast<unsigned char>(c));
    if (tokens.size() < end) tokens.push_back(random.below(8) == 0 ? '\n' : ' ');
  }
}

int scaled_length(std::int64_t tokens, double scale) {
  return static_cast<int>(std::clamp(std::llround(static_cast<double>(tokens) * scale), 1ll, 1ll << 30));
}

/// Streams of hash ids, of groups and of whole requests must not meet.
constexpr std::uint64_t request_streams = std::uint64_t{1} << 63;
constexpr std::uint64_t group_streams = request_streams + (std::uint64_t{1} << 62);
/// Of arrivals and of cancellations.
constexpr std::uint64_t arrival_stream = request_streams - 1, cancel_stream = request_streams - 2;

/// The prompt of request number `index`, of `length` tokens. @param block tokens of a hash id, scaled
/// @param prefix tokens of its group, scaled
void append_prompt(std::vector<std::int32_t>& prompt, const TraceRequest& source, std::size_t length, double block,
                   double prefix, std::size_t index, std::uint64_t seed, int vocabulary) {
  prompt.reserve(length);
  if (source.hash_ids.empty()) {
    const std::size_t shared = std::min(static_cast<std::size_t>(std::llround(prefix)), length);
    append_tokens(prompt, shared, seed, group_streams + source.prefix_group, vocabulary);
    append_tokens(prompt, length - shared, seed, request_streams + index, vocabulary);
    return;
  }
  for (std::size_t b = 0; b < source.hash_ids.size() && prompt.size() < length; ++b) {
    const auto end = static_cast<std::size_t>(std::llround(block * static_cast<double>(b + 1)));
    // Rounding may leave the last block a token short of the rounded prompt; it then reaches to the prompt's end.
    const bool last = b + 1 == source.hash_ids.size();
    const std::size_t stop = last ? length : std::min(end, length);
    if (stop > prompt.size())
      append_tokens(prompt, stop - prompt.size(), seed,
                    static_cast<std::uint64_t>(source.hash_ids[b]) & (request_streams - 1), vocabulary);
  }
}

}  // namespace

std::vector<Request> make_workload(const Trace& trace, const WorkloadOptions& options, int vocabulary, int max_length) {
  const double block = trace.block_tokens * options.length_scale;
  std::vector<Request> requests;
  ArrivalGaps gaps(options.request_rate, options.burstiness, Random(options.seed, arrival_stream));
  Random cancellations(options.seed, cancel_stream);
  double next_s = 0;
  for (std::size_t i = 0; i < trace.requests.size(); ++i) {
    const TraceRequest& source = trace.requests[i];
    Request request;
    request.id = i;
    request.sampler = options.sampler;
    request.arrival_s = source.arrival_s * options.time_scale;
    if (options.request_rate > 0) {
      request.arrival_s = next_s;
      next_s += gaps.next();
    }
    request.arrival_s /= options.load_factor;
    constexpr double longest_s = 1e9;  // thirty years; the run's clock counts nanoseconds
    if (!(request.arrival_s <= longest_s))
      throw UsageError(
          fmt::format("request {} arrives after {:g} s, more than {:g}: see --time-scale and --request-rate", i,
                      request.arrival_s, longest_s));
    request.stop = options.stop;
    // Two draws for each request: whether one is cancelled then says nothing of when others are.
    const bool cancelled = cancellations.uniform() < options.cancel_share;
    const double cancel_after_s = cancellations.uniform() * options.cancel_within_s;
    if (cancelled) request.cancel_s = request.arrival_s + cancel_after_s;
    request.max_output = scaled_length(source.output_tokens, options.length_scale);
    const int length = scaled_length(source.input_tokens, options.length_scale);
    if (length + request.max_output > max_length)
      throw UsageError(fmt::format(
          "request {}: {} prompt + {} output tokens exceed the limit of {} (model, serving.max_model_len or "
          "serving.decode_kv_tokens; --length-scale shortens)",
          i, length, request.max_output, max_length));
    append_prompt(request.prompt, source, static_cast<std::size_t>(length), block,
                  static_cast<double>(source.prefix_tokens) * options.length_scale, i, options.seed, vocabulary);
    requests.push_back(std::move(request));
  }
  return requests;
}

}  // namespace supernode::serving
