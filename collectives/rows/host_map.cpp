#include "collectives/rows/host_map.hpp"

#include <algorithm>

namespace supernode::collectives {

HostMap::HostMap(std::span<const int> host_of)
    : host_of_(host_of.size()), member_of_(host_of.size()), members_(host_of.size()) {
  std::vector<int> labels, sizes;
  for (std::size_t rank = 0; rank < host_of.size(); ++rank) {
    const auto known = std::find(labels.begin(), labels.end(), host_of[rank]);
    const auto host = static_cast<std::size_t>(known - labels.begin());
    if (known == labels.end()) {
      labels.push_back(host_of[rank]);
      sizes.push_back(0);
    }
    host_of_[rank] = static_cast<int>(host);
    member_of_[rank] = sizes[host]++;
  }
  first_.push_back(0);
  for (const int size : sizes) first_.push_back(first_.back() + size);
  for (std::size_t rank = 0; rank < host_of.size(); ++rank)
    members_[static_cast<std::size_t>(first_[host_of_[rank]] + member_of_[rank])] = static_cast<int>(rank);
}

HostMap HostMap::blocks(int ranks, int hosts) {
  std::vector<int> host_of(static_cast<std::size_t>(ranks));
  const int share = ranks / hosts, extra = ranks % hosts;
  for (int host = 0, rank = 0; host < hosts; ++host)
    for (int i = 0; i < share + (host < extra ? 1 : 0); ++i) host_of[static_cast<std::size_t>(rank++)] = host;
  return HostMap(host_of);
}

}  // namespace supernode::collectives
