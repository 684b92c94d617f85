// Is `supernode bench exchange --op alltoallv` as exact as a loop of a few lines around MPI_Alltoallv? This program has
// both, in turns, so that everybody can see on their own machine:
//
//   mpirun -n 2 --bind-to core hand_timed_alltoallv [LARGEST_BYTES [ROUNDS [TURNS]]]
//
// The loop is that of the usual MPI benchmarks: barrier, clock, call, clock; a rank's figure is its mean, the result
// the mean over ranks. Beside it the median of the rounds' slowest ranks. Times are the medians of the turns, ratios
// the medians over the turns in pairs, with half their 95 % interval.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <vector>

#include <mpi.h>

#include "collectives/benchmark/benchmark.hpp"
#include "runtime/core/buffer.hpp"
#include "runtime/core/mpi/session.hpp"
#include "runtime/core/statistics.hpp"

namespace {

using namespace supernode;
using namespace supernode::collectives;

constexpr int warmup = 50;

struct Figures {
  double mean_us, median_us;
};

Figures by_hand(const Communicator& comm, int bytes, int rounds) {
  const int ranks = comm.size();
  const std::size_t total = static_cast<std::size_t>(ranks) * static_cast<std::size_t>(bytes);
  Buffer<char, Pages::small, 4096> out(total), in(total);
  std::fill_n(out.data(), total, 1);
  std::fill_n(in.data(), total, 0);
  std::vector<int> counts(static_cast<std::size_t>(ranks), bytes), displacements(counts.size());
  for (int rank = 0; rank < ranks; ++rank) displacements[static_cast<std::size_t>(rank)] = rank * bytes;
  std::vector<double> us(static_cast<std::size_t>(rounds));
  double sum_us = 0;
  for (int i = -warmup; i < rounds; ++i) {
    MPI_Barrier(comm.get());
    const double start = MPI_Wtime();
    MPI_Alltoallv(out.data(), counts.data(), displacements.data(), MPI_CHAR, in.data(), counts.data(),
                  displacements.data(), MPI_CHAR, comm.get());
    const double passed_us = (MPI_Wtime() - start) * 1e6;
    if (i < 0) continue;
    us[static_cast<std::size_t>(i)] = passed_us;
    sum_us += passed_us;
  }
  MPI_Allreduce(MPI_IN_PLACE, us.data(), rounds, MPI_DOUBLE, MPI_MAX, comm.get());
  return {comm.sum(sum_us / rounds) / ranks, summarize(us).p50};
}

Figures by_supernode(const Communicator& comm, int bytes, int rounds) {
  BenchmarkOptions options;
  options.check = false;
  options.repetition = {
      .warmup = warmup, .least = rounds, .ci_width = 0, .time_limit_s = std::numeric_limits<double>::infinity()};
  const BenchmarkResult result = run_plain_alltoallv(comm, static_cast<std::uint64_t>(bytes), options);
  return {result.rank_avg_us, summarize(result.wall_us).p50};
}

}  // namespace

int main(int argc, char** argv) {
  const Session session(argc, argv);
  const auto argument = [&](int i, int otherwise) { return argc > i ? std::max(1, std::atoi(argv[i])) : otherwise; };
  const int largest = argument(1, 1 << 20), rounds = argument(2, 200), turns = argument(3, 25);
  const Communicator world = Communicator::world();
  if (world.rank() == 0)
    std::printf("%-10s %12s %12s %15s %12s %12s %15s\n", "#bytes", "hand_avg_us", "our_avg_us", "ratio", "hand_p50_us",
                "our_p50_us", "ratio");
  for (int bytes = 1;; bytes = bytes > largest / 2 ? largest : 2 * bytes) {
    std::vector<double> hand_mean, our_mean, hand_median, our_median;
    for (int turn = 0; turn < turns; ++turn) {
      const Figures hand = by_hand(world, bytes, rounds), ours = by_supernode(world, bytes, rounds);
      hand_mean.push_back(hand.mean_us);
      our_mean.push_back(ours.mean_us);
      hand_median.push_back(hand.median_us);
      our_median.push_back(ours.median_us);
    }
    const Summary mean = paired_ratio(our_mean, hand_mean), median = paired_ratio(our_median, hand_median);
    if (world.rank() == 0) {
      std::printf("%-10d %12.2f %12.2f %7.3f +-%.3f %12.2f %12.2f %7.3f +-%.3f\n", bytes, summarize(hand_mean).p50,
                  summarize(our_mean).p50, mean.p50, mean.ci95, summarize(hand_median).p50, summarize(our_median).p50,
                  median.p50, median.ci95);
      std::fflush(stdout);
    }
    if (bytes == largest) break;
  }
  return 0;
}
