#include "memory_pool/config.hpp"

#include <bit>

#include "memory_pool/owner/layout.hpp"
#include "runtime/core/error.hpp"
#include "runtime/core/sizes.hpp"

namespace supernode::pool {

void describe(OptionTable& table, PoolConfig& config) {
  const std::string section = "pool";
  table.add(section, "capacity", config.capacity, "DRAM each cache rank lends for blocks");
  table.add(section, "granule", config.granule, "blocks are rounded up to multiples of it, a power of two")
      .range(64, 1 << 30);
  table.add(section, "evict_above", config.evict_above, "start evicting above this fill").range(0.05, 1);
  table.add(section, "evict_ratio", config.evict_ratio, "share of the capacity freed in one round").range(0, 1);
  table.add(section, "namespace_quota", config.namespace_quota,
            "bytes of each cache rank that a namespace without a quota of its own may fill; 0: all");
  table.add(section, "open_namespaces", config.open_namespaces,
            "a namespace that nobody has created may store, without any promise of room");
  table.add(section, "virtual_nodes", config.virtual_nodes, "points of a cache rank on the hash ring").range(1, 65536);
  table.add(section, "index_slots_per_granule", config.index_slots_per_granule, "index entries per granule of capacity")
      .range(1, 64);
  table.add(section, "deadline", config.deadline, "s until a silent cache rank is dropped from a client's view")
      .range(0.001, 3600);
  table.add(section, "lease", config.lease, "s a block is kept for a writer that does not publish").range(0.01, 86400);
  table.add(section, "retries", config.retries, "further attempts at a read that met a write").range(0, 1000);
  table.add(section, "verify_below", config.verify_below,
            "shared transport: blocks up to this size have their checksum compared at every read");
  table
      .add(section, "verify_every", config.verify_every,
           "shared transport: larger blocks at every so many reads; 1: at all. Versions are compared always")
      .range(1, 1 << 30);
  table.add(section, "store_buffer", config.store_buffer, "bytes that may wait in a client's store queue");
  table.add(section, "close_deadline", config.close_deadline, "s the pool's end waits for the other ranks")
      .range(1, 86400);
  table.add(section, "directory", config.directory, "of the files under the DRAM; empty: none");
  table.add(section, "directory_limit", config.directory_limit, "bytes of files of each cache rank").range(65536, 1e18);
  table.add(section, "directory_segment", config.directory_segment, "bytes of one file, at most a quarter of the limit")
      .range(4096, 1e12);
  table.add(section, "directory_direct", config.directory_direct,
            "blocks from this size on are written and read past the page cache, where the file system can; 0: none");
  table.add(section, "directory_sync", config.directory_sync,
            "a store is acknowledged when it is published, written to its file, or synced to the disk",
            {"none", "write", "disk"});
  table.add(section, "transport", config.transport, "how payload moves: plain loads of shared memory, or MPI_Rget/Rput")
      .choices({"auto", "shared", "rma"});
}

std::uint64_t window_bytes(const PoolConfig& config) { return internal::layout_of(config).total_bytes; }

}  // namespace supernode::pool
