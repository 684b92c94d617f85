#include "runtime/serving/injection.hpp"

#include <algorithm>
#include <cmath>
#include <iterator>

#include <fmt/format.h>

#include "runtime/core/error.hpp"
#include "runtime/core/injection_text.hpp"
#include "runtime/serving/roles.hpp"

namespace supernode::serving {
namespace {

constexpr std::string_view forms =
    "owner_stall, owner_loss, each [:CACHE RANK][@START][+SECONDS]; slow_rank=RANK:FACTOR[@START][+SECONDS]; "
    "stall_rank=RANK:SECONDS[@START]";

InjectionKind kind_of(const InjectionText& parts, std::string_view text) {
  if (parts.kind == "owner_stall") return InjectionKind::owner_stall;
  if (parts.kind == "owner_loss") return InjectionKind::owner_loss;
  if (parts.kind == "slow_rank") return InjectionKind::slow_rank;
  if (parts.kind == "stall_rank") return InjectionKind::stall_rank;
  throw injection_error(text, "", forms);
}

int owner_rank(const InjectionText& parts, std::string_view text, const ServingConfig& config) {
  if (parts.numbers.size() > 1)
    throw injection_error(text, fmt::format("one cache rank, not {}", parts.numbers.size()), forms);
  const double index = parts.numbers.empty() ? 0 : parts.numbers[0];
  if (index != std::floor(index) || index >= config.cache_ranks)
    throw injection_error(
        text, fmt::format("there is no cache rank {}; serving.cache_ranks is {}", index, config.cache_ranks), forms);
  return cache_rank(config, static_cast<int>(index));
}

int die_rank(const InjectionText& parts, std::string_view text, const ServingConfig& config) {
  if (parts.numbers.size() != 2) throw injection_error(text, "a rank and a number are wanted", forms);
  const double rank = parts.numbers[0];
  const int first = prefill_rank(config, 0, 0),
            last = decode_rank(config, config.decode_instances - 1, config.decode_dies - 1);
  if (rank != std::floor(rank) || rank < first || rank > last)
    throw injection_error(text, fmt::format("rank {} is no die; they are ranks {} to {}", rank, first, last), forms);
  return static_cast<int>(rank);
}

}  // namespace

Injection parse_injection(std::string_view text, const ServingConfig& config) {
  const InjectionText parts = parse_injection_text(text, forms);
  Injection injection;
  injection.kind = kind_of(parts, text);
  injection.start_s = parts.start_s;
  injection.duration_s = parts.span_s;
  switch (injection.kind) {
    case InjectionKind::owner_stall:
    case InjectionKind::owner_loss:
      injection.rank = owner_rank(parts, text, config);
      break;
    case InjectionKind::slow_rank:
      injection.rank = die_rank(parts, text, config);
      injection.factor = parts.numbers[1];
      if (injection.factor < 1) throw injection_error(text, "a factor below 1 makes nothing slower", forms);
      break;
    case InjectionKind::stall_rank:
      injection.rank = die_rank(parts, text, config);
      if (parts.has_span) throw injection_error(text, "its seconds stand behind the rank", forms);
      injection.duration_s = parts.numbers[1];
      break;
  }
  return injection;
}

std::vector<Injection> parse_injections(const std::vector<std::string>& texts, const ServingConfig& config) {
  std::vector<Injection> injections;
  for (const std::string& text : texts) injections.push_back(parse_injection(text, config));
  std::stable_sort(injections.begin(), injections.end(),
                   [](const Injection& a, const Injection& b) { return a.start_s < b.start_s; });
  return injections;
}

std::vector<Injection> injections_of(int rank, const std::vector<Injection>& injections) {
  std::vector<Injection> own;
  std::copy_if(injections.begin(), injections.end(), std::back_inserter(own),
               [rank](const Injection& injection) { return injection.rank == rank; });
  return own;
}

double slowness_at(const std::vector<Injection>& injections, double since_start_s) {
  double factor = 1;
  for (const Injection& injection : injections) {
    if (injection.kind != InjectionKind::slow_rank || since_start_s < injection.start_s) continue;
    if (injection.duration_s > 0 && since_start_s >= injection.start_s + injection.duration_s) continue;
    factor = std::max(factor, injection.factor);
  }
  return factor;
}

}  // namespace supernode::serving
