#pragma once
// Measures the exchange: checks results first, warms up, then times the algorithms in turns; beside them the same work
// without any communication. The figures are defined in README.md.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "collectives/benchmark/injection.hpp"
#include "collectives/token_exchange.hpp"
#include "collectives/traffic/routing.hpp"
#include "runtime/core/repetition.hpp"

namespace supernode::emulation {
struct Machine;
}

namespace supernode::collectives {

enum class Operation {
  dispatch,
  combine,
  roundtrip,  ///< dispatch and combine without the experts' arithmetic
  alltoallv,  ///< no exchange: MPI_Alltoallv with equal counts, to be held against other benchmarks
};

constexpr std::string_view name_of(Operation operation) {
  constexpr std::string_view names[] = {"dispatch", "combine", "roundtrip", "alltoallv"};
  return names[static_cast<int>(operation)];
}

/// The names of all operations.
std::vector<std::string> operation_names();
/// @throws UsageError listing them.
Operation parse_operation(std::string_view name);

/// What every measurement has.
struct BenchmarkOptions {
  Repetition repetition;
  bool check = true;
  bool record_waits = false;  ///< fill in Waits; costs each rank O(ranks)
  Injection injection;
};

/// One size of the exchange, for all the algorithms that are compared.
struct BenchmarkCase {
  Operation operation = Operation::dispatch;  ///< run_benchmark() takes any but alltoallv
  ExchangeConfig exchange;                    ///< but for the algorithm
  std::vector<std::string> algorithms = {"auto"};
  RoutingConfig routing;
  int num_tokens = 128;                         ///< dispatched by every rank, <= exchange.max_tokens
  const emulation::Machine* machine = nullptr;  ///< for model_us
  BenchmarkOptions options;
};

/// Who waited for whom over all timed rounds.
struct Waits {
  int most_for = 0;  ///< the rank that the others waited for longest, together
  double most_for_s = 0, total_s = 0;
  /// [ranks, ranks] on rank 0, empty elsewhere: row = who sent / waited, column = to / for whom.
  std::vector<std::int64_t> bytes;
  std::vector<double> seconds;
};

/// An algorithm beside the best of those named in the same run ("auto" aside), by the times of their turns in pairs.
struct ToBest {
  std::string best;            ///< the one whose rounds have the least median
  double ratio = 1, ci95 = 0;  ///< the median over turns, and half its 95 % interval
  std::size_t turns = 0;       ///< below 6 they bound no interval
};

struct BenchmarkResult {
  std::string algorithm;             ///< in use, never "auto"
  std::string requested;             ///< as in BenchmarkCase::algorithms
  std::string rule;                  ///< "<file>:<line>" by which "auto" took it
  std::uint64_t bytes_per_rank = 0;  ///< most bytes of messages that a rank sends, to itself too
  std::uint64_t busiest_bytes = 0;   ///< most bytes that a rank sends to or receives from the others
  std::vector<double> wall_us;       ///< [rounds], each the maximum over ranks
  std::vector<double> turn_us;       ///< [turns] their medians, turn by turn as those of what it was compared with
  std::optional<ToBest> to_best;     ///< of an exchange
  /// [rounds] likewise: the same quantising, storing and adding in local memory, with the faster kind of stores.
  std::vector<double> limit_us;
  double rank_avg_us = 0, rank_min_us = 0, rank_max_us = 0;  ///< over ranks, of a rank's own mean
  std::optional<double> model_us;                            ///< on the machine, slowest rank
  std::uint64_t buffer_bytes = 0;                            ///< announced, of a rank
  std::uint64_t resident_bytes = 0;  ///< most that the process of a rank occupies with this algorithm alone
  long long wrong = 0;               ///< wrong elements on all ranks together; 0 when not checked
  std::optional<Waits> waits;        ///< when recorded
};

/// Bandwidth in GB/s (1e9 B/s) of `bytes` in `us`; 0 where no time passed. algbw is that of bytes_per_rank, busbw that
/// of busiest_bytes, both over the median of wall_us.
double gigabytes_per_second(std::uint64_t bytes, double us);

/// One result for each of bench.algorithms, in their order. Collective over `comm`; equal on all ranks but where said.
/// @throws UsageError as TokenExchange and route_tokens do. @throws TimeoutError when a rank stays away.
std::vector<BenchmarkResult> run_benchmark(const Communicator& comm, const BenchmarkCase& bench);

/// MPI_Alltoallv of `message_bytes` from each rank to each; limit_us is the copying alone. Collective as above, but
/// MPI's blocking calls cannot be left: a rank that stays away for `deadline_s` ends the process with a message and
/// exit code 3 (see Watchdog). @throws UsageError when the messages do not fit MPI's counts.
BenchmarkResult run_plain_alltoallv(const Communicator& comm, std::uint64_t message_bytes,
                                    const BenchmarkOptions& options, double deadline_s = 120);

}  // namespace supernode::collectives
