#pragma once
// From the waits of one rank to the matrix of who waited for whom.

#include <cstdint>
#include <span>
#include <vector>

#include "collectives/benchmark/benchmark.hpp"

namespace supernode::collectives {

/// Gathers the seconds that this rank waited for each peer, by turns. A wait in MPI's own all-to-all does not tell for
/// whom, but its end waits for the last rank to come: that part is booked on this rank, known from the time between the
/// common start of a round and each rank's arrival.
class WaitReport {
 public:
  explicit WaitReport(const Communicator& comm) : comm_(&comm), seconds_for_(static_cast<std::size_t>(comm.size())) {}

  void add(int peer, double seconds) { seconds_for_[static_cast<std::size_t>(peer)] += seconds; }
  /// A common wait of one round: this rank arrived `arrival_s` after the start and waited `waited_s`. All ranks call it
  /// equally often.
  void add_common(double arrival_s, double waited_s) { common_.push_back({arrival_s, waited_s}); }
  /// Books the common waits so far. Collective.
  void book_common();
  /// The whole picture. Collective; O(ranks) on each rank, and O(ranks^2) on rank 0.
  Waits gather(std::span<const std::uint64_t> bytes_to) const;

 private:
  struct Common {
    double arrival_s, waited_s;
  };
  const Communicator* comm_;
  std::vector<double> seconds_for_;
  std::vector<Common> common_;
};

}  // namespace supernode::collectives
