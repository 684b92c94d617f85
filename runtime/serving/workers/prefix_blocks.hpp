#pragma once
// A prefill die's use of the pool: which leading blocks of a prompt are there, taking them in, storing new ones.

#include <memory>
#include <optional>
#include <span>
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
  /// @pre context.pool. @param block_tokens x bytes_per_token is a block
  PrefixBlocks(const WorkerContext& context, std::size_t bytes_per_token);

  /// Looks the prompt up and begins to load the leading blocks that the pool holds, leaving at least one token to
  /// compute. While they are on their way, the next prompt's can be looked up.
  /// @param granted_tokens -1: all that the pool holds; else exactly these (StartPrefill), which take() insists on
  void start(std::span<const std::int32_t> prompt, int granted_tokens, PromptBlocks& blocks);
  /// Waits for the blocks; each goes into `state` as soon as it has come, while others are on their way.
  /// @throws EnvironmentError when granted blocks are not there.
  void take(PromptBlocks& blocks, EngineState& state);
  /// Queues the blocks that `state` holds whole, and that neither came from the pool nor were queued before, for
  /// storing. A block for which the queue has no room is dropped; for a prompt whose prefix was granted it waits for
  /// room. @throws TimeoutError
  void store(PromptBlocks& blocks, const EngineState& state, double deadline_s);

  /// Removes blocks that nobody will be sent to any more.
  void remove(std::span<const pool::Key> keys);

  /// Lets stores go on. @returns whether something happened.
  bool progress() { return client_.progress(); }
  /// Waits until all stores have been acknowledged, and tells the owners what was used. @throws TimeoutError
  void finish(double deadline_s);
  WorkerStatistics statistics() const;

 private:
  pool::Client client_;
  pool::ContextCache cache_;
  std::uint64_t dropped_ = 0;
};

}  // namespace supernode::serving
