#pragma once
// A prefill die's use of the pool: which leading blocks of a prompt are there, taking them in, storing new ones.

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "memory_pool/context_cache.hpp"
#include "runtime/serving/workers/worker.hpp"

namespace supernode::serving {

/// The blocks of one prompt.
struct PromptBlocks {
  std::vector<pool::Key> keys;            ///< of the prompt's full blocks
  std::vector<std::byte> loaded;          ///< what the load writes: state of the blocks that the pool has
  std::optional<pool::PendingLoad> load;  ///< under way
  int granted = -1;                       ///< leading blocks that must be there; -1: as many as there are
  int taken = 0;                          ///< leading blocks that came from the pool
  int stored = 0;                         ///< leading blocks that came from the pool or were queued for storing
};

class PrefixBlocks {
 public:
  /// @pre context.pool. A block is `block_tokens` tokens of the engine's states and the end behind them, so that a
  /// prompt can go on from every block.
  PrefixBlocks(const WorkerContext& context, const StepEngine& engine);

  /// Looks the prompt up and begins to load the leading blocks that the pool holds, leaving at least one token to
  /// compute. While they are on their way, the next prompt's can be looked up.
  /// @param granted_tokens -1: all that the pool holds; else exactly these (Work::Beginning), which take() insists on
  void start(std::span<const std::int32_t> prompt, int granted_tokens, PromptBlocks& blocks);
  /// Waits for the blocks; each goes into `state` as soon as it has come, while others are on their way.
  /// @throws EnvironmentError when granted blocks are not there, or a wrong byte is (EngineState::import_tokens).
  void take(PromptBlocks& blocks, EngineState& state);
  /// Queues the blocks that `state` holds whole, and that neither came from the pool nor were queued before, for storing.
  /// It waits where the queue has no room (for a prompt whose prefix was granted, until the queue is empty). A block is
  /// dropped, and counted as such, when there is still no room after `deadline_s`.
  void store(PromptBlocks& blocks, const EngineState& state, double deadline_s);

  /// Lets stores go on. @returns whether something happened.
  bool progress() { return client_.progress(); }
  /// The same from within a computation: costs nothing when there are no stores.
  void progress_stores() {
    if (client_.queued() > 0) client_.progress();
  }
  /// Waits for queued stores, for at most `seconds`; what is left moves on in progress(). Blocks that are stored before
  /// the next lookup can be found by it.
  void settle(double seconds) { client_.drain(seconds); }
  /// Waits until all stores have been acknowledged, for at most `deadline_s`, and tells the owners what was used.
  void finish(double deadline_s);
  /// Blocks that were not there, by reason, since the last call. None of prompts whose prefix was granted.
  std::map<std::string, std::uint64_t> take_misses();
  /// What its client counted. Stores that are still under way count as dropped.
  WorkerStatistics statistics() const;

 private:
  pool::Client client_;
  pool::ContextCache cache_;
  std::size_t end_bytes_;      ///< of a block
  std::uint64_t no_room_ = 0;  ///< blocks for which the queue had no room
  std::uint64_t loaded_bytes_ = 0;
  std::array<std::uint64_t, pool::miss_reason_count> told_{};  ///< misses that were taken
};

}  // namespace supernode::serving
