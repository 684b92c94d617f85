#pragma once
// A simulated fleet with a clock of its own: it answers commands after fixed times, in order of time, keeps what its
// dies hold of each request, and checks what the scheduler promises of it. No MPI, no waiting.

#include <algorithm>
#include <functional>
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
    CHECK(scheduler.all_free());
    for (const auto* held : {&prefill_, &decode_})
      for (const auto& [die, requests] : *held) CHECK(requests.empty());
    lost = scheduler.lost();
    return log.take();
  }

  Event next() override {
    Event event = next_event();
    if (const auto* kv = std::get_if<KvArrived>(&event.what)) {
      Held& held = decode_[kv->die].at(kv->request);
      held.here = true;
      if (held.dropped) decode_[kv->die].erase(kv->request);
    }
    last_ = event.time;
    ++events_handed_out;
    return event;
  }
  bool quiet() const override { return source_.closed() && events_.empty(); }
  WorkerStatistics stop(Unfinished) override {
    CHECK(quiet());
    CHECK_FALSE(std::exchange(stopped, true));
    return {};
  }

  void perform(const Command& command, RunTime now) override {
    std::visit([&](const auto& what) { perform_one(what, now); }, command);
  }

  std::size_t largest_decode_batch = 0, largest_prefill_tokens = 0;
  std::map<RequestId, DieId> decode_die, prefill_die;
  std::vector<StartStep> batches;                                 ///< of prefill instances
  std::map<RequestId, std::vector<std::size_t>> pieces;           ///< numbers of the batches that computed a prompt
  std::set<RequestId> without_first_token, fails_while_decoding;  ///< whose logits will not be finite
  std::function<std::int32_t(RequestId, int)> draw = [](RequestId, int nth) { return nth == 0 ? 7 : 8; };
  std::function<RunSpan(std::size_t)> iteration_span = [](std::size_t) { return 2ms; };  ///< of the fullest die's batch
  std::function<RunSpan(std::size_t)> prefill_span = [](std::size_t) { return 5ms; };    ///< of the step's tokens
  std::map<int, RequestId> cancel_before_event;  ///< by number of the event, cancellations included
  std::map<int, Overdue> overdue_before_event;   ///< likewise
  std::vector<LostInstance> lost;                ///< by the scheduler's account
  int events_handed_out = 0;
  std::vector<RunSpan> iteration_spans;
  bool stopped = false;

 private:
  /// What a die has of a request.
  struct Held {
    int prompt = 0, done = 0;  ///< tokens
    DieId decode = {};
    RunTime sent{};  ///< the last piece is on the decode die
    bool expected = false, here = false, dropped = false;
    int generated = 1;
  };

  Event next_event() {
    if (const auto cancel = cancel_before_event.find(events_handed_out); cancel != cancel_before_event.end())
      return {last_, Cancelled{cancel->second}};
    if (const auto late = overdue_before_event.find(events_handed_out); late != overdue_before_event.end())
      return {last_, late->second};
    const auto arrival = source_.next_at();
    if (arrival && (events_.empty() || *arrival <= events_.begin()->first.first)) return *source_.poll(*arrival);
    if (events_.empty()) throw std::runtime_error("the scheduler waits for nothing");
    return events_.extract(events_.begin()).mapped();
  }

  template <class What>
  void push(RunTime time, What what) {
    events_.emplace(std::pair(time, serial_++), Event{time, std::move(what)});
  }

  /// Its dies say nothing any more, and what they have is of no interest.
  void perform_one(const AbandonInstance& gone, RunTime) {
    const bool decodes = gone.instance.stage == emulation::Stage::decode;
    CHECK(abandoned_.insert(gone.instance).second);
    std::erase_if(decodes ? decode_ : prefill_,
                  [&](const auto& die) { return die.first.instance == gone.instance.index; });
    std::erase_if(events_, [&](const auto& event) {
      const auto of_lost = [&](const auto* what) { return what && what->die.instance == gone.instance.index; };
      const auto& what = event.second.what;
      return decodes ? of_lost(std::get_if<DecodeReported>(&what)) || of_lost(std::get_if<KvArrived>(&what))
                     : of_lost(std::get_if<PrefillReported>(&what));
    });
  }

  void perform_one(const StartStep& start, RunTime now) {
    CHECK_FALSE(abandoned_.contains(start.instance));
    if (start.instance.stage == emulation::Stage::prefill)
      prefill(start, now);
    else
      iterate(start, now);
  }

  void perform_one(const ReserveKv& reserve, RunTime) {
    const RequestId id = reserve.request->id;
    CHECK_FALSE(abandoned_.contains({emulation::Stage::decode, reserve.decode.instance}));
    CHECK(decode_[reserve.decode].emplace(id, Held{.prompt = reserve.request->prompt_tokens()}).second);
    decode_die[id] = reserve.decode;
    std::int64_t tokens = 0;
    for (const auto& [request, held] : decode_[reserve.decode]) tokens += held.prompt;
    CHECK(tokens <= config_.decode_kv_tokens);
    CHECK(decode_[reserve.decode].size() <= static_cast<std::size_t>(config_.max_decode_batch));
  }

  void perform_one(const ExpectKv& expected, RunTime now) {
    const RequestId id = expected.request->id;
    Held& held = decode_[expected.decode].at(id);
    CHECK_FALSE(std::exchange(held.expected, true));
    CHECK(expected.tokens == sent_.at(id).first);
    push(std::max(now, sent_.at(id).second), KvArrived{expected.decode, id});
  }

  void perform_one(const DropState& drop, RunTime) {
    const bool prefill = drop.instance.stage == emulation::Stage::prefill;
    CHECK_FALSE(abandoned_.contains(drop.instance));
    for (std::size_t die = 0; die < drop.by_die.size(); ++die)
      for (const RequestId request : drop.by_die[die]) {
        auto& held = (prefill ? prefill_ : decode_)[{drop.instance.index, static_cast<int>(die)}];
        const auto found = held.find(request);
        REQUIRE(found != held.end());
        if (drop.kv == Remainder::lost) {
          CHECK_FALSE(found->second.here);
          held.erase(found);
          std::erase_if(events_, [&](const auto& event) {
            const auto* kv = std::get_if<KvArrived>(&event.second.what);
            return kv && kv->request == request;
          });
          continue;
        }
        CHECK_FALSE(found->second.dropped);
        if (prefill || found->second.here) {
          held.erase(found);
        } else {
          found->second.dropped = true;
          CHECK(found->second.expected);
        }
      }
  }

  void prefill(const StartStep& start, RunTime now) {
    batches.push_back(start);
    std::size_t tokens = 0;
    for (const std::vector<Work>& works : start.by_die)
      for (const Work& work : works)
        if (!work.home || &works == &start.by_die[static_cast<std::size_t>(*work.home)])
          tokens += static_cast<std::size_t>(work.count);
    for (std::size_t die = 0; die < start.by_die.size(); ++die) {
      PrefillReported report{{start.instance.index, static_cast<int>(die)}, {}};
      const RunTime end = now + prefill_span(tokens) + std::chrono::nanoseconds(die);
      for (const Work& work : start.by_die[die]) {
        const bool reports = !work.home || *work.home == static_cast<int>(die);
        const PrefillResult result = compute(work, report.die, end, reports);
        if (reports) report.results.push_back(result);
      }
      push(end, std::move(report));
    }
    largest_prefill_tokens = std::max(largest_prefill_tokens, tokens);
  }

  PrefillResult compute(const Work& work, DieId die, RunTime end, bool reports) {
    const RequestId id = work.request;
    if (reports) pieces[id].push_back(batches.size() - 1);
    auto& held = prefill_[die];
    if (work.begins) {
      CHECK(work.begins->request->id == id);
      CHECK(held.emplace(id, Held{.prompt = work.begins->request->prompt_tokens(), .decode = work.begins->decode})
                .second);
      if (reports) prefill_die[id] = die;
    }
    Held& mine = held.at(id);
    CHECK(work.first == mine.done);
    const int hits = work.begins ? mine.prompt / 2 : 0;
    const int computed = std::min(work.count, mine.prompt - mine.done - hits);
    mine.done += hits + computed;
    sent_[id] = {mine.done, end + 1ms};
    SampledToken token;
    if (mine.done == mine.prompt) {
      if (!without_first_token.contains(id)) token = draw(id, 0);
      held.erase(id);
    }
    return {id, token, hits, computed, 1us, 500ns};
  }

  void iterate(const StartStep& start, RunTime now) {
    std::size_t fullest = 0;
    for (const std::vector<Work>& works : start.by_die) fullest = std::max(fullest, works.size());
    largest_decode_batch = std::max(largest_decode_batch, fullest);
    const RunSpan span = iteration_span(fullest);
    iteration_spans.push_back(span);
    for (std::size_t die = 0; die < start.by_die.size(); ++die) {
      DecodeReported report{{start.instance.index, static_cast<int>(die)}, 300ns, {}};
      for (const Work& work : start.by_die[die]) {
        Held& held = decode_[report.die].at(work.request);
        CHECK(held.here);
        CHECK(work.first == held.prompt + held.generated - 1);
        const bool fails = fails_while_decoding.contains(work.request);
        report.tokens.push_back(
            {work.request, fails ? std::nullopt : SampledToken(draw(work.request, held.generated))});
        ++held.generated;
      }
      push(now + span + std::chrono::nanoseconds(die), std::move(report));
    }
  }

  const ServingConfig& config_;
  Arrivals source_;
  std::map<std::pair<RunTime, int>, Event> events_;
  std::map<DieId, std::map<RequestId, Held>> prefill_, decode_;
  std::map<RequestId, std::pair<int, RunTime>> sent_;  ///< prompt tokens whose KV has left, and when all is there
  std::set<InstanceId> abandoned_;
  int serial_ = 0;
  RunTime last_{};
};

}  // namespace supernode::serving::test
