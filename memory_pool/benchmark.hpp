#pragma once
// Times the pool's operations, and beside each of them the same bytes by MPI_Get or MPI_Put and by memcpy.

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "memory_pool/config.hpp"
#include "runtime/core/mpi/communicator.hpp"

namespace supernode::pool {

enum class BenchOperation { get, put, lookup, mixed };
/// "get", "put", "lookup", "mixed". @throws UsageError listing them.
BenchOperation parse_bench_operation(std::string_view name);

/// What is measured; equal on all ranks.
struct BenchCase {
  BenchOperation operation = BenchOperation::get;
  std::uint64_t block_bytes = 4096;  ///< at least 1
  int clients = 1;                   ///< the first ranks; the others are owners. All ranks of a world of 1 are both
  int iterations = 200;              ///< timed calls of each client
  int warmup = 20;                   ///< calls before them
  int batch = 1;                     ///< keys of one get_batch() or lookup(); puts are single
  std::uint64_t keys = 0;            ///< distinct blocks; 0: half of what the owners hold, at most 65536
  double zipf_alpha = 0;             ///< block i is drawn with weight 1/(i+1)^alpha; 0: all alike
  double get_share = 0.9;            ///< of mixed
  bool check = true;                 ///< compare every byte with what was stored
  std::uint64_t seed = 1;
  double deadline_s = 120;  ///< for every wait for a peer
};

/// On rank 0 all samples of all clients; elsewhere empty. Times are us per key: a batch's time over its keys.
struct BenchResult {
  std::vector<double> wall_us;        ///< the pool
  std::vector<double> mpi_us;         ///< MPI_Get or MPI_Put with flush, the faster kind of window; none for lookups
  std::vector<double> memcpy_us;      ///< the same bytes in local memory; none for lookups
  std::string mpi_window;             ///< "allocate" or "shared": whose times mpi_us are
  double ops_per_s = 0;               ///< all clients together, from the slowest client's time inside the pool
  std::uint64_t keys = 0;             ///< distinct blocks
  std::uint64_t huge_page_bytes = 0;  ///< of the owners' memory, all together
  long long wrong = 0;                ///< blocks with a wrong byte, or a wrong length
  long long misses = 0;               ///< timed reads that found nothing, and stores that did not succeed
};

/// Pool, baselines' windows and blocks are made once and serve all cases. Collective over `world`: every member.
class Benchmark {
 public:
  /// The windows of the baselines are as large as an owner's payload area.
  /// @throws UsageError when `clients` leaves no owner, or the pool refuses `config`.
  Benchmark(const Communicator& world, int clients, const PoolConfig& config);
  ~Benchmark();

  /// Stores the blocks, runs pool, MPI and memcpy in turns (core's mpi/repeat), so that all meet the same noise, checks,
  /// and removes the blocks. In a round each client makes one call, and then all ranks meet. Collective. @throws UsageError for a block larger than an owner's memory.
  BenchResult run(const BenchCase& bench);

  /// "shared" or "rma".
  std::string transport() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace supernode::pool
