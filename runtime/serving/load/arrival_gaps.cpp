#include "runtime/serving/load/arrival_gaps.hpp"

#include <cmath>

#include "runtime/core/statistics.hpp"

namespace supernode::serving {

double ArrivalGaps::next() {
  const double u = random_.uniform();
  if (burstiness_ == 1) return -std::log1p(-u) / rate_;
  return gamma_quantile(u, burstiness_) / burstiness_ / rate_;
}

}  // namespace supernode::serving
