#include "runtime/serving/load/generated.hpp"

#include <algorithm>
#include <cmath>

#include "runtime/core/random.hpp"

namespace supernode::serving {
namespace {

/// Of the draws here; workload.cpp draws tokens and arrivals from others.
constexpr std::uint64_t length_stream = (std::uint64_t{1} << 63) - 2;

}  // namespace

GeneratedTrace generate(const GeneratedOptions& options) {
  GeneratedTrace generated;
  generated.trace.format = "generated";
  const bool rows = from_one_file(options.prompt, options.output);
  const bool may_cut = options.max_length > 1 && (options.prompt.unbounded() || options.output.unbounded());
  Random random(options.seed, length_stream);
  for (std::size_t i = 0; i < options.requests; ++i) {
    const double of_prompt = random.uniform(), of_output = random.uniform();
    TraceRequest request;
    request.input_tokens = options.prompt.at(of_prompt);
    request.output_tokens = options.output.at(rows ? of_prompt : of_output);
    request.prefix_group = random.below(static_cast<std::uint64_t>(options.prefix_groups));
    if (may_cut && request.input_tokens + request.output_tokens > options.max_length) {
      // The prompt keeps its length if it can: a run is more about prompts than about how far they are continued.
      const std::int64_t room = options.max_length - request.input_tokens;
      request.output_tokens = std::min(request.output_tokens, std::max<std::int64_t>(room, 1));
      request.input_tokens = std::min(request.input_tokens, options.max_length - request.output_tokens);
      ++generated.cut;
    }
    request.prefix_tokens = std::llround(options.prefix_share * static_cast<double>(request.input_tokens));
    generated.trace.requests.push_back(std::move(request));
  }
  return generated;
}

}  // namespace supernode::serving
