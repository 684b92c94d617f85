#include "runtime/serving/injection.hpp"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "runtime/core/error.hpp"
#include "runtime/core/injection_text.hpp"

namespace supernode::serving {
namespace {

constexpr std::string_view forms = "owner_stall, owner_loss, each [:CACHE RANK][@START][+SECONDS]";

}  // namespace

Injection parse_injection(std::string_view text, int cache_ranks) {
  const InjectionText parts = parse_injection_text(text, forms);
  Injection injection;
  if (parts.kind == "owner_stall")
    injection.kind = InjectionKind::owner_stall;
  else if (parts.kind == "owner_loss")
    injection.kind = InjectionKind::owner_loss;
  else
    throw injection_error(text, "", forms);
  if (parts.numbers.size() > 1)
    throw injection_error(text, fmt::format("one cache rank, not {}", parts.numbers.size()), forms);
  injection.start_s = parts.start_s;
  injection.duration_s = parts.span_s;
  const double index = parts.numbers.empty() ? 0 : parts.numbers[0];
  if (index != std::floor(index) || index >= cache_ranks)
    throw injection_error(text, fmt::format("there is no cache rank {}; serving.cache_ranks is {}", index, cache_ranks),
                          forms);
  injection.cache_index = static_cast<int>(index);
  return injection;
}

std::vector<Injection> parse_injections(const std::vector<std::string>& texts, int cache_ranks) {
  std::vector<Injection> injections;
  for (const std::string& text : texts) injections.push_back(parse_injection(text, cache_ranks));
  std::stable_sort(injections.begin(), injections.end(),
                   [](const Injection& a, const Injection& b) { return a.start_s < b.start_s; });
  return injections;
}

}  // namespace supernode::serving
