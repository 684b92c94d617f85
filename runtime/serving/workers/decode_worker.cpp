#include <unordered_map>
#include <utility>

#include <fmt/format.h>

#include "runtime/core/error.hpp"
#include "runtime/core/stopwatch.hpp"
#include "runtime/serving/workers/kv_intake.hpp"
#include "runtime/serving/workers/worker_inbox.hpp"

namespace supernode::serving {
namespace {

/// A request on this die, from the arrival of its KV until the coordinator says that it has ended.
struct Sequence {
  KvNotice notice;
  std::unique_ptr<EngineState> state;
  std::int32_t last_token = 0;
  int generated = 1;  ///< output tokens so far; prefill gave the first
};

class DecodeWorker {
 public:
  explicit DecodeWorker(const WorkerContext& context) : context_(context), inbox_(context), intake_(*context.engine) {}

  void run() {
    Unfinished unfinished = Unfinished::none;
    for (;;) {
      const Stamped<Order> order = inbox_.wait([this] { return take_in(); });
      if (const auto* work = std::get_if<StepOrder>(&order.what)) {
        // KV comes in before and after a step, so that dies that iterate without a pause take it, too.
        take_in();
        step(*work, order.stamp);
        take_in();
      } else if (const auto* notice = std::get_if<KvNotice>(&order.what)) {
        // Pieces that came early are taken in now.
        const Stopwatch watch(handover_.wall_s);
        naming("", [&] { intake_.reserve(*notice); });
      } else if (const auto* due = std::get_if<KvDue>(&order.what)) {
        naming("", [&] { intake_.expect(*due); });
        report_complete();
      } else if (const auto* ended = std::get_if<DropOrder>(&order.what)) {
        for (const RequestId request : ended->requests)
          if (sequences_.erase(request) == 0) naming("", [&] { intake_.drop(request, ended->kv); });
      } else if (const auto* stop = std::get_if<StopOrder>(&order.what)) {
        unfinished = stop->unfinished;
        break;
      } else {
        inbox_.refuse(order.what);
      }
    }
    // Unless the run was cut short, every request has ended before the order to stop, so whatever is left came without
    // being asked for.
    const bool all_ended = unfinished == Unfinished::none;
    if (all_ended && (!intake_.empty() || !sequences_.empty()))
      throw EnvironmentError(fmt::format("{}: told to stop with KV of requests that have not ended", inbox_.where()));
    WorkerStatistics counts;
    counts.modelled_s = context_.engine->modelled_s();
    counts.payload.exchange = context_.engine->exchanged();
    counts.payload.handover = handover_;
    counts.step_times[context_.rank] = context_.engine->step_times();
    counts.guesses = context_.engine->guesses();
    count_balance(context_, emulation::Stage::decode, counts);
    inbox_.report_stopped(counts);
  }

 private:
  /// Runs `step`, whose errors then name this rank and `from`.
  template <class Step>
  void naming(const std::string& from, Step&& step) const {
    try {
      step();
    } catch (const EnvironmentError& error) {
      throw EnvironmentError(fmt::format("{}: {}{}", inbox_.where(), from, error.what()));
    }
  }

  /// Takes in pieces of KV that have come. @returns whether any has.
  bool take_in() {
    bool any = false;
    while (const std::optional<Message> message = context_.transfer->poll()) {
      any = true;
      handover_.wall_s += message->receiving_s;
      const Stopwatch watch(handover_.wall_s);
      naming(fmt::format("from rank {}: ", message->source),
             [&] { intake_.take(message->source, decode_kv_piece(message->bytes).what); });
    }
    if (any) report_complete();
    return any;
  }

  void report_complete() {
    for (KvIntake::Complete& complete : intake_.take_complete()) {
      const RequestId request = complete.notice.request;
      if (complete.notice.prefill_rank >= 0) inbox_.report(KvReport{request});
      if (complete.state)
        sequences_.emplace(request, Sequence{.notice = complete.notice,
                                             .state = std::move(complete.state),
                                             .last_token = complete.first_token});
    }
  }

  Sequence& find(const StepOrder::Item& item) {
    const auto found = sequences_.find(item.request);
    if (found == sequences_.end())
      throw EnvironmentError(
          fmt::format("{}: a step of request {}, whose KV is not here", inbox_.where(), item.request));
    return found->second;
  }

  /// One iteration of the whole instance: every request of the order gets its next token.
  void step(const StepOrder& order, RunTime start) {
    std::vector<StepWork> works;
    for (const StepOrder::Item& item : order.items) {
      Sequence& sequence = find(item);
      works.push_back(
          {item.request, sequence.state.get(), std::span(&sequence.last_token, 1), sequence.notice.sampler});
    }
    const StepOutcome outcome = step_together(*context_.engine, works, start);
    DecodeReport report{outcome.exchange, {}};
    for (std::size_t row = 0; row < order.items.size(); ++row) {
      Sequence& sequence = find(order.items[row]);
      const SampledToken token = outcome.tokens[row];
      sequence.last_token = token.value_or(0);
      ++sequence.generated;
      DecodeReported::Token& reported = report.tokens.emplace_back();
      reported.request = sequence.notice.request;
      reported.token = token;
      if (!token || outcome.further.empty()) continue;
      for (const std::int32_t further : outcome.further[row]) {
        if (sequence.generated >= sequence.notice.max_output) break;
        reported.further.push_back(further);
        sequence.last_token = further;
        ++sequence.generated;
      }
    }
    inbox_.report(report, outcome.end.value_or(start));
  }

  const WorkerContext& context_;
  WorkerInbox inbox_;
  KvIntake intake_;
  std::unordered_map<RequestId, Sequence> sequences_;  ///< whose KV is here; steps point into the elements
  Transfers handover_;                                 ///< time only: who sends counts the bytes
};

}  // namespace

void run_decode_worker(const WorkerContext& context) { DecodeWorker(context).run(); }

}  // namespace supernode::serving
