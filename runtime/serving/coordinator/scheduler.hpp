#pragma once
// The scheduling policy: a state machine from events to commands. Pure: no MPI, no clock of its own.
//
// A request passes: queue -> prefill -> hand-over of its KV -> decoding -> end. Instances are equal peers and keep no
// request's past, so a request goes to the least loaded one, wherever its cache blocks lie. README.md has the table of
// states: what may happen in each, and who holds what.
//
//   Queue     First come, first served. The head is taken when Admission finds room on a decode die for its prompt and
//             whole output, and when PrefillSteps finds an instance that can begin it now. Nothing overtakes it, so
//             nothing starves. A request that is larger than a whole decode die fails at once; one that comes when
//             `max_queue` wait already is refused.
//   Prefill   PrefillSteps says which pieces of which prompts an idle instance computes next. An instance that computes
//             takes nothing until all its dies have reported.
//   Decoding  An instance iterates while it has requests. Requests whose KV has arrived join at the next iteration, on
//             each die as many as BatchLimit allows.
//   End       A request ends when it has its tokens, with a stop token, when it fails, or when it is cancelled. What dies
//             hold of it is freed then; what is in the middle of a step or on its way first comes to its end, and its
//             room counts as taken until it has.

#include <deque>
#include <memory>
#include <unordered_map>
#include <vector>

#include "runtime/serving/coordinator/admission.hpp"
#include "runtime/serving/coordinator/batch_limit.hpp"
#include "runtime/serving/coordinator/fleet_state.hpp"
#include "runtime/serving/coordinator/token_sink.hpp"
#include "runtime/serving/load/run_series.hpp"
#include "runtime/serving/wire/events.hpp"

namespace supernode::serving {

class Scheduler {
 public:
  /// @param config, sink outlive the scheduler. @param max_concurrency requests that hold room on a decode die; 0: no
  /// limit.
  Scheduler(const ServingConfig& config, TokenSink& sink, int max_concurrency = 0);

  /// Takes one event, in order of time, and returns what is to be done. O(prefill dies), O(decode dies) for each request
  /// that leaves the queue, O(requests of the instance) for an iteration.
  /// @throws EnvironmentError for a report that does not fit what was ordered: an unknown request, one left out, a die
  /// that had none.
  std::vector<Command> handle(const Event& event);

  /// The run cannot go on: every request that has not ended ends as failed. No event may follow.
  void fail_all(const std::string& why, RunTime now);

  /// No request is queued or under way, and nothing of one that has ended is.
  bool idle() const { return active_.empty(); }
  /// And so all KV and all slots are free.
  bool all_free() const { return idle() && fleet_.all_free(config_); }
  const FleetState& fleet() const { return fleet_; }
  /// Brings `seen`, which only this function changes, up to date, if an arrival, an order or the end of a step has
  /// changed it since. @returns whether one has. O(1) else, O(decode dies) then.
  bool update(LoadSnapshot& seen) const;

 private:
  enum class Stage { queued, prefilling, handed_over, ready, running };
  struct Active {
    std::shared_ptr<const Request> request;
    RequestRecord record;
    Stage stage = Stage::queued;
    DieId prefill, decode;
    bool ended = false;  ///< the sink has it; a step or KV on its way still holds something of it
  };
  struct DecodeInstance {
    int reports_missing = 0;  ///< 0: between iterations
    RunTime iteration_started{};
    RunSpan last_iteration{}, slowest_exchange{};
    int last_batch = 0;                           ///< requests on the fullest die in the last iteration
    double last_tokens = 0;                       ///< tokens that it gave for a request
    std::uint64_t iterations = 0;                 ///< that have ended
    std::vector<std::vector<RequestId>> running;  ///< [die]: of the current iteration
    std::vector<std::vector<RequestId>> ready;    ///< [die]: KV is here, waiting to join
    std::vector<DecodeReported::Token> tokens;    ///< that the dies have reported of the current iteration
    BatchLimit limit;
  };

  void on(const Arrived& event, RunTime now, std::vector<Command>& commands);
  void on(const PrefillReported& event, RunTime now, std::vector<Command>& commands);
  void on(const KvArrived& event, RunTime now, std::vector<Command>& commands);
  void on(const DecodeReported& event, RunTime now, std::vector<Command>& commands);
  void on(const Cancelled& event, RunTime now, std::vector<Command>& commands);

  void take_result(const PrefillResult& result, DieId die, RunTime now, std::vector<Command>& commands);
  void end_prompt(Active& active, SampledToken token, RunTime now, std::vector<Command>& commands);
  void drop_prompt(Active& active, std::vector<Command>& commands);
  void await_kv(Active& active, int tokens, std::vector<Command>& commands);
  void check_tokens(const DecodeInstance& instance) const;
  void end_iteration(int index, RunTime now, std::vector<Command>& commands);
  void observe(int index, RunTime now);
  void start_prefills(RunTime now, std::vector<Command>& commands);
  bool start_placed(Active& active, RunTime now, std::vector<Command>& commands);
  void start_decode(int instance, RunTime now, std::vector<Command>& commands);
  /// The request, which must be in that stage. @throws EnvironmentError naming it and what came.
  Active& find(RequestId request, Stage stage, const char* what);
  DecodeInstance& decode_instance(int index) { return decode_.at(static_cast<std::size_t>(index)); }
  void add_token(Active& active, std::int32_t token, RunTime now);
  void leave_queue(Active& active, DieId decode, RunTime now);
  void end(Active& active, Ended ended, RunTime now);
  void release(RequestId request);

  const ServingConfig& config_;
  TokenSink& sink_;
  const Admission admission_;
  FleetState fleet_;
  std::vector<DecodeInstance> decode_;
  std::deque<RequestId> queue_;
  std::unordered_map<RequestId, Active> active_;  ///< queued or under way, or ended and not free
  std::uint64_t changes_ = 0;                     ///< of what update() shows
};

}  // namespace supernode::serving
