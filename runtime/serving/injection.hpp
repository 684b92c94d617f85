#pragma once
// Injected failures, which show what a serving run does with them. Pure.

#include <string>
#include <string_view>
#include <vector>

namespace supernode::serving {

enum class InjectionKind {
  owner_stall,  ///< a cache rank stops answering for a while
  owner_loss,   ///< the same, and what it held is lost: it comes back empty, or with what is in its files
};

struct Injection {
  InjectionKind kind{};
  int cache_index = 0;
  double start_s = 0;     ///< after the start of serving
  double duration_s = 0;  ///< 0: three times pool.deadline
};

/// `KIND[:CACHE RANK][@START][+DURATION]`, times in s: "owner_stall", "owner_loss:1@2.5+10".
/// @throws UsageError naming the text and what is wrong with it.
Injection parse_injection(std::string_view text, int cache_ranks);
/// All of them, in order of their start. @throws UsageError as above.
std::vector<Injection> parse_injections(const std::vector<std::string>& texts, int cache_ranks);

}  // namespace supernode::serving
