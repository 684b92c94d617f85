#include <list>
#include <unordered_map>
#include <utility>

#include <fmt/format.h>

#include "runtime/core/error.hpp"
#include "runtime/core/stopwatch.hpp"
#include "runtime/serving/workers/kv_intake.hpp"
#include "runtime/serving/workers/worker_inbox.hpp"

namespace supernode::serving {
namespace {

/// A request on this die, from the arrival of its KV to its last token.
struct Sequence {
  KvNotice notice;
  std::unique_ptr<EngineState> state;
  std::int32_t last_token = 0;
  int generated = 1;  ///< output tokens so far; prefill gave the first
  bool failed = false;
};

class DecodeWorker {
 public:
  explicit DecodeWorker(const WorkerContext& context) : context_(context), inbox_(context), intake_(*context.engine) {}

  void run() {
    Unfinished unfinished = Unfinished::none;
    for (;;) {
      const Stamped<Order> order = inbox_.wait([this] { return take_in(); });
      if (const auto* notice = std::get_if<KvNotice>(&order.what)) {
        // Pieces that came early are taken in now.
        const Stopwatch watch(handover_.wall_s);
        naming("", [&] { intake_.expect_kv(*notice); });
        report_complete();
      } else if (const auto* iteration = std::get_if<IterateOrder>(&order.what)) {
        iterate(iteration->joins, order.stamp);
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
    if (all_ended && (!intake_.empty() || !ready_.empty() || !running_.empty()))
      throw EnvironmentError(fmt::format("{}: told to stop with KV of requests that have not ended", inbox_.where()));
    WorkerStatistics counts;
    counts.modelled_s = context_.engine->modelled_s();
    counts.payload.exchange = context_.engine->exchanged();
    counts.payload.handover = handover_;
    counts.step_times[context_.rank] = context_.engine->step_times();
    counts.guesses = context_.engine->guesses();
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
      inbox_.report(KvReport{request});
      ready_.emplace(request, Sequence{.notice = complete.notice,
                                       .state = std::move(complete.state),
                                       .last_token = complete.notice.first_token});
    }
  }

  /// One iteration of the whole instance: every running request of this die gets one token.
  void iterate(const std::vector<RequestId>& joins, RunTime start) {
    for (const RequestId request : joins) {
      auto ready = ready_.extract(request);
      if (!ready) throw EnvironmentError(fmt::format("{}: request {} joins without its KV", inbox_.where(), request));
      running_.push_back(std::move(ready.mapped()));
    }
    std::vector<StepWork> works;
    for (Sequence& sequence : running_)
      works.push_back(
          {sequence.notice.request, sequence.state.get(), std::span(&sequence.last_token, 1), sequence.notice.sampler});

    const StepOutcome outcome = context_.engine->step(works, start);
    DecodeReport report{outcome.exchange, {}};
    std::size_t row = 0;
    for (Sequence& sequence : running_) {
      const SampledToken token = outcome.tokens[row];
      sequence.failed = !token;
      sequence.last_token = token.value_or(0);
      ++sequence.generated;
      DecodeReported::Token& reported = report.tokens.emplace_back();
      reported.request = sequence.notice.request;
      reported.token = token;
      if (!outcome.further.empty())
        for (const std::int32_t further : outcome.further[row]) {
          if (sequence.failed || sequence.generated == sequence.notice.max_output) break;
          reported.further.push_back(further);
          sequence.last_token = further;
          ++sequence.generated;
        }
      ++row;
    }
    inbox_.report(report, outcome.end.value_or(start));
    running_.remove_if(
        [](const Sequence& sequence) { return sequence.failed || sequence.generated == sequence.notice.max_output; });
  }

  const WorkerContext& context_;
  WorkerInbox inbox_;
  KvIntake intake_;
  std::unordered_map<RequestId, Sequence> ready_;  ///< KV is here, not yet joined
  std::list<Sequence> running_;                    ///< in order of joining; steps point into its elements
  Transfers handover_;                             ///< time only: who sends counts the bytes
};

}  // namespace

void run_decode_worker(const WorkerContext& context) { DecodeWorker(context).run(); }

}  // namespace supernode::serving
