#pragma once
// Which ranks share a host, and who speaks for whom between hosts.

#include <span>
#include <vector>

namespace supernode::collectives {

/// Ranks by host. Hosts are numbered in the order of their lowest rank; a host's ranks are its *members*, in rank
/// order.
class HostMap {
 public:
  /// host_of[rank]: any label of the rank's host, equal for ranks that share memory.
  explicit HostMap(std::span<const int> host_of);
  /// `ranks` in blocks over `hosts` that differ by one at most, the larger ones first. hosts <= ranks.
  static HostMap blocks(int ranks, int hosts);

  int ranks() const { return static_cast<int>(host_of_.size()); }
  int hosts() const { return static_cast<int>(first_.size()) - 1; }
  int host_of(int rank) const { return host_of_[rank]; }
  /// The rank's place among the members of its host.
  int member_of(int rank) const { return member_of_[rank]; }
  /// Ranks of a host, ascending.
  std::span<const int> members(int host) const {
    return std::span(members_).subspan(static_cast<std::size_t>(first_[host]),
                                       static_cast<std::size_t>(first_[host + 1] - first_[host]));
  }
  int n_members(int host) const { return first_[host + 1] - first_[host]; }
  /// The member of `host` that takes in what `source` sends there: the one with the source's place among the members,
  /// modulo their number. `source` itself on its own host.
  int gateway(int source, int host) const { return members(host)[member_of(source) % n_members(host)]; }

 private:
  std::vector<int> host_of_, member_of_, members_, first_;
};

}  // namespace supernode::collectives
