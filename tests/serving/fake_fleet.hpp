#pragma once
// A simulated fleet with a clock of its own: it answers commands after fixed times, in order of time, and checks the
// limits that the scheduler promises. No MPI, no waiting.

#include <algorithm>
#include <map>
#include <set>
#include <stdexcept>
#include <utility>
#include <vector>

#include "runtime/serving/coordinator/arrivals.hpp"
#include "runtime/serving/coordinator/coordinate.hpp"
#include "runtime/serving/coordinator/scheduler.hpp"
#include "tests/support/catch.hpp"

namespace supernode::serving::test {

using namespace std::chrono_literals;

inline std::vector<Request> some_requests(std::size_t count, int prompt, int output, double gap_s = 0) {
  std::vector<Request> requests(count);
  for (std::size_t i = 0; i < count; ++i) {
    requests[i].id = 1000 + 7 * i;  // no index
    requests[i].arrival_s = gap_s * static_cast<double>(i);
    requests[i].max_output = output;
    requests[i].prompt.assign(static_cast<std::size_t>(prompt), 1);
  }
  return requests;
}

class FakeFleet : public Fleet {
 public:
  FakeFleet(const ServingConfig& config, std::vector<Request> requests)
      : config_(config), source_(std::move(requests)) {}

  /// Serves all requests. @returns them by id.
  std::vector<ServedRequest> run(int max_concurrency = 0) {
    ServedLog log;
    Scheduler scheduler(config_, log, max_concurrency);
    coordinate(scheduler, *this);
    CHECK(scheduler.idle());
    for (const auto& instance : scheduler.fleet().decode)
      for (const DecodeDieState& die : instance) {
        CHECK(die.free_kv_tokens == config_.decode_kv_tokens);
        CHECK(die.free_slots == config_.max_decode_batch);
      }
    return log.take();
  }

  Event next() override {
    const auto arrival = source_.next_at();
    if (arrival && (events_.empty() || *arrival <= events_.begin()->first.first)) return *source_.poll(*arrival);
    if (events_.empty()) throw std::runtime_error("the scheduler waits for nothing");
    Event event = events_.begin()->second;
    events_.erase(events_.begin());
    return event;
  }
  bool quiet() const override { return source_.closed() && events_.empty(); }
  WorkerStatistics stop(Unfinished) override {
    CHECK(quiet());
    CHECK_FALSE(std::exchange(stopped, true));
    return {};
  }

  void perform(const Command& command, RunTime now) override {
    if (const auto* start = std::get_if<StartPrefill>(&command)) prefill(*start, now);
    if (const auto* expected = std::get_if<ExpectKv>(&command)) {
      CHECK(expected->decode == decode_die.at(expected->request->id));
      to_generate_[expected->request->id] = expected->request->max_output - 1;
      push(now + 1ms, KvArrived{expected->decode, expected->request->id});
    }
    if (const auto* iteration = std::get_if<StartDecode>(&command)) iterate(*iteration, now);
  }

  std::size_t largest_decode_batch = 0, largest_prefill_tokens = 0;
  std::map<RequestId, DieId> decode_die, prefill_die;
  std::vector<StartPrefill> batches;
  std::set<RequestId> without_first_token, fails_while_decoding;  ///< whose logits will not be finite
  bool stopped = false;

 private:
  template <class What>
  void push(RunTime time, What what) {
    events_.emplace(std::pair(time, serial_++), Event{time, std::move(what)});
  }

  void prefill(const StartPrefill& start, RunTime now) {
    batches.push_back(start);
    std::size_t tokens = 0;
    for (std::size_t die = 0; die < start.by_die.size(); ++die) {
      PrefillReported report{{start.instance, static_cast<int>(die)}, {}};
      for (const auto& item : start.by_die[die]) {
        const RequestId id = item.request->id;
        const int length = item.request->prompt_tokens();
        tokens += item.request->prompt.size();
        decode_die[id] = item.decode;
        prefill_die[id] = report.die;
        const SampledToken token = without_first_token.contains(id) ? std::nullopt : SampledToken(7);
        report.results.push_back({id, token, length / 2, length - length / 2, 1us, 500ns});
      }
      push(now + 5ms + std::chrono::nanoseconds(die), std::move(report));
    }
    largest_prefill_tokens = std::max(largest_prefill_tokens, tokens);
  }

  void iterate(const StartDecode& start, RunTime now) {
    for (std::size_t die = 0; die < start.joins_by_die.size(); ++die) {
      auto& running = running_[{start.instance, static_cast<int>(die)}];
      for (const RequestId request : start.joins_by_die[die]) running[request] = to_generate_.at(request);
      largest_decode_batch = std::max(largest_decode_batch, running.size());
      DecodeReported report{{start.instance, static_cast<int>(die)}, 300ns, {}};
      for (auto entry = running.begin(); entry != running.end();) {
        const bool fails = fails_while_decoding.contains(entry->first);
        report.tokens.push_back({entry->first, fails ? std::nullopt : SampledToken(8)});
        entry = fails || --entry->second == 0 ? running.erase(entry) : std::next(entry);
      }
      push(now + 2ms + std::chrono::nanoseconds(die), std::move(report));
    }
  }

  const ServingConfig& config_;
  Arrivals source_;
  std::map<std::pair<RunTime, int>, Event> events_;
  std::map<RequestId, int> to_generate_;
  std::map<DieId, std::map<RequestId, int>> running_;
  int serial_ = 0;
};

}  // namespace supernode::serving::test
