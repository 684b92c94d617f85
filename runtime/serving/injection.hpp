#pragma once
// Injected failures, which show what a serving run does with them. Pure.

#include <string>
#include <string_view>
#include <vector>

#include "runtime/serving/serving_config.hpp"

namespace supernode::serving {

enum class InjectionKind {
  owner_stall,  ///< a cache rank stops answering for a while
  owner_loss,   ///< the same, and what it held is lost: it comes back empty, or with what is in its files
  slow_rank,    ///< a die computes slower than it could
  stall_rank,   ///< a die stops for a while, once, before a step
};

struct Injection {
  InjectionKind kind{};
  int rank = 0;           ///< whose failure it is
  double factor = 1;      ///< of slow_rank: its computing takes so many times as long
  double start_s = 0;     ///< after the start of serving, on the run's clock
  double duration_s = 0;  ///< 0: of owners three times pool.deadline, of slow_rank to the end
};

/// Times in s: `owner_stall[:CACHE RANK][@START][+DURATION]`, owner_loss alike, `slow_rank=RANK:FACTOR[@START]
/// [+DURATION]`, `stall_rank=RANK:DURATION[@START]`; RANK is one of the world's, a prefill or decode die.
/// @throws UsageError naming the text and what is wrong with it.
Injection parse_injection(std::string_view text, const ServingConfig& config);
/// All of them, in order of their start. @throws UsageError as above.
std::vector<Injection> parse_injections(const std::vector<std::string>& texts, const ServingConfig& config);
/// Those of one rank.
std::vector<Injection> injections_of(int rank, const std::vector<Injection>& injections);
/// How many times as long as usual computing takes then by those that make a die slow; 1 without one.
double slowness_at(const std::vector<Injection>& injections, double since_start_s);

}  // namespace supernode::serving
