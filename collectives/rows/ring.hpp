#pragma once
// The order in which a rank turns to its peers.

namespace supernode::collectives {

/// Visits all of [0, n) but `self`, the next one first, so that not all ranks turn to the same peer at once.
template <class Visit>
void for_others(int self, int n, Visit&& visit) {
  for (int step = 1; step < n; ++step) visit((self + step) % n);
}

}  // namespace supernode::collectives
