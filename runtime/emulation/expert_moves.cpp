#include "runtime/emulation/expert_moves.hpp"

#include <algorithm>
#include <stdexcept>

#include <fmt/format.h>

#include "runtime/emulation/machine/links.hpp"

namespace supernode::emulation {

std::vector<ModelTime> expert_move_times(const Machine& machine, std::span<const int> dies,
                                         std::span<const DieStep> steps) {
  if (std::all_of(steps.begin(), steps.end(), [](const DieStep& step) { return step.transfers.empty(); })) return {};
  struct Link {
    double sending = 0, receiving = 0, latency = 0;  ///< s
  };
  std::vector<Link> links(steps.size());
  for (std::size_t from = 0; from < steps.size(); ++from)
    for (const ExpertTransfer& one : steps[from].transfers) {
      const auto to = static_cast<std::size_t>(one.to);
      if (one.to < 0 || to >= links.size() || !(one.bytes >= 0))
        throw std::invalid_argument(
            fmt::format("a transfer of {} bytes to die {} of {}", one.bytes, one.to, links.size()));
      const int apart = hops(machine, dies[from], dies[to]);
      const double seconds = one.bytes / (link_gbps(machine, Access::write, Memory::die, apart) * 1e9);
      links[from].sending += seconds;
      links[to].receiving += seconds;
      for (Link* link : {&links[from], &links[to]})
        link->latency = std::max(link->latency, link_latency(machine, Access::write, Memory::die, apart).value);
    }
  std::vector<ModelTime> times;
  for (const Link& link : links) times.push_back({link.latency + std::max(link.sending, link.receiving)});
  return times;
}

}  // namespace supernode::emulation
