#pragma once
// The scheduling policy: a state machine from events to commands. Pure: no MPI, no clock of its own.
//
// A request passes: queue -> prefill -> hand-over of its KV -> decoding -> done. Instances are equal peers and keep no
// request's past, so a request goes to the least loaded one, wherever its cache blocks lie.
//   - An idle prefill instance takes requests from the head of the queue until `max_prefill_tokens`; within the
//   instance
//     each goes to the die with the fewest prompt tokens.
//   - A request is taken only when a decode die has KV room for its prompt and whole output; the room is reserved then,
//   so
//     decoding never runs out of it. The head of the queue waits for room; nothing overtakes it, so nothing starves.
//   - A decode instance iterates while it has requests. Requests whose KV has arrived join at the next iteration,
//   unless
//     the last iteration exceeded the TPOT objective and others are running.

#include <deque>
#include <optional>
#include <vector>

#include "runtime/serving/coordinator/events.hpp"
#include "runtime/serving/load/workload.hpp"
#include "runtime/serving/serving_config.hpp"

namespace supernode::serving {

/// Everything measured about one request. Times on the run's clock.
struct RequestRecord {
  Nanoseconds arrived = 0;
  Nanoseconds prefill_started = 0;
  Nanoseconds first_token = 0;    ///< the coordinator has the first token
  Nanoseconds decode_joined = 0;  ///< start of the first iteration that includes it
  Nanoseconds finished = 0;
  Nanoseconds pool = 0;              ///< within prefill
  Nanoseconds prefill_exchange = 0;  ///< within prefill
  Nanoseconds decode_exchange = 0;   ///< within decoding
  int hit_tokens = 0, computed_tokens = 0;
  std::vector<std::int32_t> tokens;      ///< the output
  std::vector<Nanoseconds> token_times;  ///< when the coordinator had each
  bool done = false;
};

class Scheduler {
 public:
  /// @param requests outlives the scheduler. @param max_concurrency requests between arrival and end that are let out
  /// of the queue at a time; 0: no limit.
  Scheduler(const ServingConfig& config, const std::vector<Request>& requests, int max_concurrency = 0);

  /// Takes one event, in order of time, and returns what is to be done. O(dies) for an iteration, O(1) else.
  std::vector<Command> handle(const Event& event);

  /// All requests are done.
  bool done() const { return finished_ == requests_.size(); }
  const std::vector<RequestRecord>& records() const { return records_; }

 private:
  struct PrefillInstance {
    int reports_missing = 0;  ///< dies that have not reported the running batch; 0: idle
  };
  struct DecodeDie {
    std::int64_t free_kv_tokens = 0;
    int free_slots = 0;
    std::vector<std::size_t> ready;  ///< KV is here, waiting to join
  };
  struct DecodeInstance {
    std::vector<DecodeDie> dies;
    int reports_missing = 0;  ///< 0: between iterations
    Nanoseconds iteration_started = 0, last_iteration = 0;
    Nanoseconds slowest_exchange = 0;
    std::vector<std::size_t> running;  ///< requests of the current iteration, all dies
  };
  /// Where a request was placed when it left the queue.
  struct Placement {
    DieId prefill, decode;
  };

  void on(const Arrived& event, Nanoseconds now, std::vector<Command>& commands);
  void on(const PrefillReported& event, Nanoseconds now, std::vector<Command>& commands);
  void on(const KvArrived& event, Nanoseconds now, std::vector<Command>& commands);
  void on(const DecodeReported& event, Nanoseconds now, std::vector<Command>& commands);

  void start_prefills(Nanoseconds now, std::vector<Command>& commands);
  void start_decode(int instance, Nanoseconds now, std::vector<Command>& commands);
  /// The decode die with the most free KV that has room for the request.
  std::optional<DieId> find_room(std::size_t request) const;
  std::int64_t kv_tokens(std::size_t request) const;
  void finish(std::size_t request, Nanoseconds now);

  const ServingConfig config_;
  const std::vector<Request>& requests_;
  const int max_concurrency_;
  std::deque<std::size_t> queue_;
  std::vector<PrefillInstance> prefill_;
  std::vector<DecodeInstance> decode_;
  std::vector<Placement> placement_;
  std::vector<RequestRecord> records_;
  std::size_t finished_ = 0;
  int in_flight_ = 0;
};

}  // namespace supernode::serving
