#include "collectives/benchmark/finish.hpp"

#include <algorithm>
#include <chrono>
#include <numeric>
#include <thread>

namespace supernode::collectives {
namespace {

std::uint64_t largest(const Communicator& comm, std::uint64_t value) {
  return static_cast<std::uint64_t>(comm.max(static_cast<long long>(value)));
}

}  // namespace

void come_late(const Injection& fault, int rank) {
  if (fault.rank != rank) return;
  if (fault.kind == Injection::Kind::stall)
    std::this_thread::sleep_for(std::chrono::duration<double, std::milli>(fault.ms));
  while (fault.kind == Injection::Kind::stop) std::this_thread::sleep_for(std::chrono::seconds(1));
}

void finish(const Communicator& comm, const Contender& contender, std::span<const std::uint64_t> bytes_to,
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
  result.rank_avg_us = comm.sum(contender.own_us) / comm.size();
  result.rank_min_us = -comm.max(-contender.own_us);
  result.rank_max_us = comm.max(contender.own_us);
  result.resident_bytes = largest(comm, result.resident_bytes);
  result.wrong = comm.sum(wrong);
}

}  // namespace supernode::collectives
