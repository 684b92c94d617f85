#include "collectives/algorithms.hpp"

#include "collectives/algorithms/find_hosts.hpp"
#include "collectives/algorithms/table.hpp"

namespace supernode::collectives {

std::vector<AlgorithmName> algorithms() {
  std::vector<AlgorithmName> names;
  for (const AlgorithmEntry& entry : algorithm_table()) names.push_back({entry.name, entry.summary});
  return names;
}

void check_algorithm_name(std::string_view name) { find_algorithm(name); }

AvailableAlgorithms available_algorithms(const Communicator& comm, int fake_hosts) {
  const HostMap hosts = find_hosts(comm, fake_hosts);
  const WindowSupport windows = probe_windows(comm, hosts);
  AvailableAlgorithms available;
  for (const AlgorithmEntry& entry : algorithm_table()) {
    if (sufficient(entry.needs, hosts.hosts(), windows)) {
      available.working.emplace_back(entry.name);
    } else {
      available.left_out.push_back({std::string(entry.name), what_is_missing(entry.needs, hosts.hosts(), windows)});
    }
  }
  return available;
}

}  // namespace supernode::collectives
