#pragma once
// The pool on the modelled clock: a directory of blocks. The coordinator asks it in modelled order which blocks of a
// prompt are there, announces new ones, and learns which gave way. Pure; it holds no payload.
//
// A block is announced when its prefill ends, and published with the time at which it is written (SharedPorts::stores
// says when). It becomes visible at that time and takes its room then; the least recently used blocks of its owner give
// way. Whoever finds a block has copied it at that moment as far as the directory is concerned: a load pins nothing,
// and its time is the ports' matter.

#include <array>
#include <cstddef>
#include <cstdint>
#include <list>
#include <map>
#include <optional>
#include <span>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "memory_pool/key.hpp"
#include "memory_pool/ring.hpp"
#include "runtime/serving/coordinator/owner_share.hpp"
#include "runtime/serving/load/run_time.hpp"

namespace supernode::serving {

struct ModelledPoolConfig {
  std::vector<int> owners;          ///< as the pool names them (ranks); the cache rank is the place in this list
  int virtual_nodes = 128;          ///< of each owner on the pool's ring, as PoolConfig
  std::int64_t capacity_bytes = 0;  ///< of each owner
  int block_tokens = 128;
  std::int64_t block_bytes = 0;  ///< KV of a block, all layers
  int pieces_per_block = 1;      ///< layers: each layer of a block is requested alone
  bool keep_changes = false;     ///< for take_changes(); they pile up until taken
};

/// Why a block of a prompt could not be used.
enum class BlockMiss {
  never_stored,     ///< nobody announced it, or it is larger than an owner's memory
  not_yet_visible,  ///< on its way
  evicted,          ///< it was there and gave way; remembered for the whole run
  prefix_missing,   ///< it is there, but a block before it is not
};
inline constexpr std::size_t kBlockMisses = 4;
/// As the pool's own reasons where there is one.
std::string_view to_string(BlockMiss reason);

/// What a prompt finds.
struct PrefixHit {
  int blocks = 0;                 ///< leading ones to load; at least one token of the prompt is left to compute
  int tokens = 0;                 ///< in those blocks
  std::vector<OwnerShare> loads;  ///< by owner, ascending; only owners that give something
  std::optional<BlockMiss> miss;  ///< of the first block that is not there; none when all full blocks are
};

/// New blocks of one prompt, not yet published.
struct Announced {
  std::vector<pool::Key> keys;     ///< in the prompt's order
  std::vector<OwnerShare> writes;  ///< by owner, ascending; only owners that take something
};

/// A block became visible or gave way. A real pool can follow these.
struct PoolChange {
  enum class Kind { appeared, evicted };
  Kind kind = Kind::appeared;
  pool::Key key;
  int owner = 0;  ///< cache rank, from 0
  RunTime at;
};

struct ModelledPoolStats {
  std::uint64_t lookups = 0;                         ///< prompts
  std::uint64_t asked = 0;                           ///< their full blocks; hits + all misses
  std::uint64_t hits = 0;                            ///< blocks that are there with all before them
  std::array<std::uint64_t, kBlockMisses> misses{};  ///< [BlockMiss]
  std::uint64_t hit_tokens = 0;                      ///< that need not be computed; may be less than the hits hold

  std::uint64_t offered = 0;        ///< blocks; announced + already_there + too_large
  std::uint64_t announced = 0;      ///< stored + those on their way
  std::uint64_t already_there = 0;  ///< visible or on their way: not written again
  std::uint64_t too_large = 0;      ///< dropped: a block is larger than an owner's memory
  std::uint64_t stored = 0;         ///< became visible; evicted + those held now
  std::uint64_t evicted = 0;

  struct Owner {
    std::int64_t bytes = 0;           ///< in use
    std::int64_t high_watermark = 0;  ///< the most that ever was in use; at most the capacity
  };
  std::vector<Owner> owners;  ///< [cache rank]
};

/// All calls with a time come in modelled order: a time before the last one is our bug. Equal calls give equal answers.
/// Memory: about 150 bytes for each distinct block of the run. O(1) a block, O(owners) a call, O(log) a publication.
class ModelledPool {
 public:
  /// @throws UsageError without owners, or when a block holds no token, no byte or no piece.
  explicit ModelledPool(ModelledPoolConfig config);

  /// The longest prefix of blocks that are visible at `now`; a block is visible at its time of visibility itself. The
  /// blocks of the prefix become the most recently used, the first of all last, so that it outlives those that are
  /// useless without it.
  /// @param keys of the prompt's full blocks, in order (pool::chain_keys)
  PrefixHit lookup(std::span<const pool::Key> keys, int prompt_tokens, RunTime now);

  /// Names what a finished prefill has to write: the blocks that are neither visible nor on their way. Those that are
  /// visible become the most recently used.
  Announced announce(std::span<const pool::Key> keys, RunTime now);
  /// Says when announced blocks are written; once for each announcement. @pre visible_at is not in the past
  void publish(const Announced& announced, RunTime visible_at);

  /// Lets blocks become visible up to `now`, included, by time, then in order of publication. The calls above do so
  /// first.
  void advance(RunTime now);
  /// When the next block becomes visible, of those published.
  std::optional<RunTime> next_change() const;
  /// Changes since the last call, in order; empty unless config.keep_changes.
  std::vector<PoolChange> take_changes() { return std::exchange(changes_, {}); }

  const ModelledPoolConfig& config() const { return config_; }
  const ModelledPoolStats& stats() const { return stats_; }
  /// The block has given way, and is not on its way again.
  bool evicted(const pool::Key& key) const { return absence(find(key)) == BlockMiss::evicted; }
  std::uint64_t on_their_way() const { return stats_.announced - stats_.stored; }
  /// The cache rank that a block belongs to: the pool's own rule.
  int owner_of(const pool::Key& key) const;

 private:
  using UseOrder = std::list<pool::Key>;  ///< least recently used first
  enum class State { announced, published, visible, evicted };
  struct Block {
    State state = State::announced;
    int owner = 0;
    UseOrder::iterator use;  ///< of a visible block
  };

  /// Why `block` cannot be used; nothing when it is visible.
  static std::optional<BlockMiss> absence(const Block* block);
  const Block* find(const pool::Key& key) const;
  void touch(const Block& block);
  void appear(const pool::Key& key, RunTime at);
  void evict_oldest(int owner, RunTime at);
  void note(PoolChange::Kind kind, const pool::Key& key, int owner, RunTime at);
  /// As shares, and counts none for the next call. O(owners)
  std::vector<OwnerShare> take_shares();

  ModelledPoolConfig config_;
  pool::Ring ring_;
  std::vector<int> place_of_;  ///< [number of an owner] its cache rank
  RunTime now_{};
  std::unordered_map<pool::Key, Block> blocks_;  ///< never walked: its order is nobody's
  std::vector<UseOrder> use_order_;              ///< [cache rank] the visible blocks
  /// Published blocks by (time of visibility, order of publication).
  std::map<std::pair<RunTime, std::uint64_t>, std::vector<pool::Key>> coming_;
  std::uint64_t publications_ = 0;
  std::vector<std::int64_t> blocks_by_owner_;  ///< [cache rank] of the call under way
  std::vector<PoolChange> changes_;
  ModelledPoolStats stats_;
};

}  // namespace supernode::serving
