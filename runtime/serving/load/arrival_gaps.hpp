#pragma once
// When requests come at a rate. Pure.

#include <cstdint>

#include "runtime/core/random.hpp"

namespace supernode::serving {

/// The gaps between arrivals of a gamma process, as vLLM's load generator has it: independent, gamma-distributed with
/// shape B = burstiness and scale 1 / (rate B). Their mean is 1 / rate, whatever B; their standard deviation is
/// 1 / (rate sqrt(B)). B = 1 is a Poisson process; B < 1 comes in bursts, B > 1 more evenly. One draw a gap, by the
/// inverse of the distribution, so that runs of one seed differ in B alone.
class ArrivalGaps {
 public:
  /// @param rate requests/s, > 0; infinite: all at once @param burstiness B > 0
  ArrivalGaps(double rate, double burstiness, Random random) : rate_(rate), burstiness_(burstiness), random_(random) {}

  /// The next gap, s.
  double next();

 private:
  double rate_, burstiness_;
  Random random_;
};

}  // namespace supernode::serving
