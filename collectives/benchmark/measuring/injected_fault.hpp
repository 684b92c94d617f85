#pragma once
// What an injected fault does in a round.

#include "collectives/benchmark/injection.hpp"

namespace supernode::collectives {

/// The fault of a timed round: `injection` in its iteration, and none in all others.
Injection fault_in(int iteration, const Injection& injection);

/// Sleeps on the rank of the fault, as long as a stall says; a stopped rank sleeps until the run is aborted.
void delay_rank(const Injection& fault, int rank);

inline bool corrupts(const Injection& fault, int rank) {
  return fault.kind == Injection::Kind::corrupt && fault.rank == rank;
}

}  // namespace supernode::collectives
