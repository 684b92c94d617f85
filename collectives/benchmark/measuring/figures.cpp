#include "collectives/benchmark/measuring/figures.hpp"

#include <algorithm>
#include <numeric>

namespace supernode::collectives {
namespace {

std::uint64_t largest(const Communicator& comm, std::uint64_t value) {
  return static_cast<std::uint64_t>(comm.max(static_cast<long long>(value)));
}

}  // namespace

void fill_figures(const Communicator& comm, const Contender& contender, std::span<const std::uint64_t> bytes_to,
                  std::span<const std::uint64_t> bytes_from, long long wrong, BenchmarkResult& result) {
  const auto self = static_cast<std::size_t>(comm.rank());
  const auto total = [](std::span<const std::uint64_t> bytes) {
    return std::accumulate(bytes.begin(), bytes.end(), std::uint64_t{0});
  };
  const std::uint64_t sent = total(bytes_to);
  result.bytes_per_rank = largest(comm, sent);
  result.busiest_bytes = largest(comm, std::max(sent - bytes_to[self], total(bytes_from) - bytes_from[self]));
  result.wall_us = contender.us;
  result.turn_us = contender.turn_us;
  const double own_us = std::accumulate(contender.own_us.begin(), contender.own_us.end(), 0.0) /
                        std::max<double>(1, static_cast<double>(contender.own_us.size()));
  result.rank_avg_us = comm.sum(own_us) / comm.size();
  result.rank_min_us = -comm.max(-own_us);
  result.rank_max_us = comm.max(own_us);
  result.resident_bytes = largest(comm, result.resident_bytes);
  result.wrong = comm.sum(wrong);
}

double gigabytes_per_second(std::uint64_t bytes, double us) {
  return us > 0 ? static_cast<double>(bytes) / us / 1e3 : 0;
}

}  // namespace supernode::collectives
