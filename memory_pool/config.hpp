#pragma once
// Options of the pool, section [pool].

#include <cstdint>
#include <string>

#include "runtime/core/options.hpp"

namespace supernode::pool {

/// When a store is acknowledged.
enum class DirectorySync {
  none,   ///< when it is published
  write,  ///< when it is written to its file: it survives the job
  disk,   ///< when it is synced: it survives the machine's power
};

/// Equal on all ranks.
struct PoolConfig {
  Bytes capacity{64u << 20};          ///< payload bytes each owner lends; the index comes on top, see window_bytes()
  Bytes granule{4096};                ///< blocks are rounded up to multiples of it; a power of two
  double evict_above = 0.90;          ///< start evicting when reserved / capacity would pass it
  double evict_ratio = 0.05;          ///< share of the capacity freed in one round
  Bytes namespace_quota{0};           ///< bytes of each owner that a namespace nobody created may fill; 0: all of it
  bool open_namespaces = true;        ///< false: stores need a namespace made by Pool::create_namespace()
  int virtual_nodes = 128;            ///< points of each owner on the ring
  int index_slots_per_granule = 2;    ///< entries of the index for each granule of capacity
  double deadline = 5;                ///< s a client waits for an owner before it drops it from its view
  double lease = 60;                  ///< s an owner keeps a block for a writer that does not publish
  int retries = 4;                    ///< further attempts at a read that met a write
  Bytes verify_below{16u << 10};      ///< shared transport: blocks up to this size are checked by their checksum always
  int verify_every = 16;              ///< and of larger ones every so many reads; 1: all. Torn reads show by version
  Bytes store_buffer{64u << 20};      ///< bytes of blocks that may wait in a client's store queue
  double close_deadline = 120;        ///< s the destructor waits for the other ranks
  std::string directory;              ///< of the file tier, created; owner i uses <directory>/owner-<i>. Empty: none
  Bytes directory_limit{4ull << 30};  ///< bytes of files each owner may fill
  Bytes directory_segment{64u << 20};  ///< bytes of one file, at most a quarter of the limit
  Bytes directory_direct{256u << 10};  ///< blocks from this size on pass by the page cache (O_DIRECT); 0: none
  DirectorySync directory_sync = DirectorySync::write;
  std::string transport = "auto";  ///< "shared" (one host: plain loads), "rma" (MPI_Rget / MPI_Rput), or "auto"
};

void describe(OptionTable& table, PoolConfig& config);

/// Bytes of window memory one owner allocates: index, payload and a header. @throws UsageError for values that do not
/// go together.
std::uint64_t window_bytes(const PoolConfig& config);

}  // namespace supernode::pool
