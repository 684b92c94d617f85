#pragma once
// The fleet on the modelled clock: events come in the order in which they happen on the emulated machine, whatever the
// hosts do. Dies report when a step is over on that clock; what they share is kept here, in modelled order: the pool's
// directory, and the ports of cache owners and of the RDMA network.
//
// An event is handed out when nothing earlier can follow: every step under way began no earlier than it, since a step
// ends later than it begins; or the steps that did have reported. So two runs give the same events, in the same order.
// Of events at one time arrivals come first, then prefill reports, KV, decode reports; then by instance and die.

#include <functional>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <tuple>
#include <unordered_map>
#include <variant>

#include "runtime/serving/coordinator/fleet.hpp"
#include "runtime/serving/coordinator/modelled_pool.hpp"
#include "runtime/serving/coordinator/request_source.hpp"
#include "runtime/serving/coordinator/shared_ports.hpp"
#include "runtime/serving/fleet/fleet_link.hpp"
#include "runtime/serving/roles.hpp"

namespace supernode::serving {

struct ModelledFleetOptions {
  emulation::Machine machine;
  emulation::PoolNetwork network = emulation::PoolNetwork::fabric;
  double kv_bytes_per_token = 0;           ///< on the emulated machine
  std::optional<ModelledPoolConfig> pool;  ///< none: no context caching
  std::string model_name;                  ///< part of the keys of blocks
  CacheOrders cache = CacheOrders::coordinator;
  StepLog* steps = nullptr;  ///< gets the reports of steps; null where none are asked for
  /// Takes a block that the directory has given up out of the pool that really holds it; done when it returns. Empty:
  /// there is no such pool. With it `pool` keeps its changes.
  std::function<void(const pool::Key&)> remove_block = {};
};

/// Rank 0 only.
class ModelledFleet : public Fleet {
 public:
  /// The references outlive the fleet. @param deadline_s longest that a die may owe a report, wall time
  ModelledFleet(const ServingConfig& config, RequestSource& source, MessagePort& port, double deadline_s,
                const ModelledFleetOptions& options, WallTime (*clock)() = wall_now);

  Event next() override;
  void perform(const Command& command, RunTime now) override;
  bool quiet() const override { return source_.closed() && link_.quiet() && calendar_.empty(); }
  std::map<std::string, std::uint64_t> miss_reasons() const override;
  /// The pool's counts are the directory's, and modelled times of hand-over and pool those of the ports.
  WorkerStatistics stop(Unfinished unfinished) override;

  /// Of the event handed out last.
  RunTime last() const { return last_; }

 private:
  /// The order of events: time, kind, instance, die, request.
  using Key = std::tuple<RunTime, int, int, int, RequestId>;
  using What = std::variant<PrefillReported, KvArrived, DecodeReported>;

  /// A prompt from its first piece until all KV of it that will come is expected.
  struct Granted {
    std::vector<pool::Key> keys;
    DieId decode;
    int prompt_tokens = 0;
    int done = 0;             ///< tokens that were reported
    int tokens = 0;           ///< that its piece under way takes from the pool
    bool hands_over = false;  ///< it goes on beyond its first token
    bool shared = false;      ///< by all dies of its instance
    RunTime ordered, ready;   ///< of its piece under way; its blocks are on the die
    RunTime handed_over;      ///< the pieces that were reported are on the decode die
  };

  StartStep grant(StartStep command, RunTime now);
  Granted& look_up(const Work& work, RunTime now, std::vector<OwnerShare>& loads);
  /// What a die of an instance moves of blocks that all its dies share: every prefill_dies-th one, by owner.
  std::vector<OwnerShare> dealt_blocks(std::span<const pool::Key> blocks, int die) const;
  /// Beside `report`, whose time is `end`, of the dies of its instance: when the last of them has ended its step.
  RunTime all_ended(const PrefillReported& report, RunTime end) const;
  void pass_on(Granted& granted, DieId home, std::size_t blocks, int fresh_tokens, RunTime now, RunTime ended);
  void begin(const StartStep& step, RunTime now);
  /// Removes what the directory has given up from the pool that really holds it.
  void follow_directory(RunTime now);
  void take(Stamped<FleetWire::Incoming> report);
  /// Completes what a prefill die reported, and writes its new blocks to the pool.
  void settle(PrefillReported& report, RunTime end);
  std::optional<Event> release();
  int die_index(Role role, DieId die) const;

  const ServingConfig& config_;
  RequestSource& source_;
  FleetLink link_;
  const ModelledFleetOptions options_;
  const pool::Key root_;  ///< of the keys of blocks
  std::optional<ModelledPool> pool_;
  SharedPorts ports_;
  std::map<Key, What> calendar_;                   ///< reported, not yet handed out
  std::map<int, RunTime> stepping_;                ///< [rank] start of the step that it owes
  std::multiset<RunTime> starts_;                  ///< the same, in order
  std::unordered_map<RequestId, RunTime> coming_;  ///< when KV on its way arrives, until its die has it
  std::multiset<RunTime> arrivals_;                ///< the same, in order
  std::unordered_map<RequestId, Granted> granted_;
  std::vector<pool::Key> given_up_;  ///< evicted in the directory, and not removed yet
  RunTime last_{};                   ///< of the event handed out last
};

}  // namespace supernode::serving
