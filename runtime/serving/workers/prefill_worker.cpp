#include <algorithm>
#include <optional>
#include <unordered_map>
#include <utility>

#include <fmt/format.h>

#include "runtime/core/error.hpp"
#include "runtime/core/stopwatch.hpp"
#include "runtime/serving/workers/prefix_blocks.hpp"
#include "runtime/serving/workers/worker_inbox.hpp"

namespace supernode::serving {
namespace {

/// How long a die waits after a step for its stores, as a share of the step's time. A block that the next step finds
/// saves far more than its store takes; slow owners must not hold up prefill all the same.
constexpr double most_settling = 0.5;

/// A request from the first piece of its prompt to the last one.
struct Sequence {
  StepOrder::Item::Beginning order;
  std::unique_ptr<EngineState> state;
  PromptBlocks blocks;

  int prompt_tokens() const { return static_cast<int>(order.prompt.size()); }
  bool whole() const { return state->length() == prompt_tokens(); }
};

/// What a step does with one of them.
struct Piece {
  Sequence* sequence = nullptr;
  bool begins = false;
  int first = 0;  ///< tokens in its state before the step, and before anything came from the pool
  int count = 0;  ///< to compute
  PrefillResult result;
};

class PrefillWorker {
 public:
  explicit PrefillWorker(const WorkerContext& context)
      : context_(context), inbox_(context), bytes_per_token_(context.engine->state_bytes_per_token()) {
    if (context.pool) pool_.emplace(context, *context.engine);
  }

  void run() {
    if (pool_) context_.engine->set_background([this] { pool_->progress_stores(); });
    Unfinished unfinished = Unfinished::none;
    for (;;) {
      Stamped<Order> order = inbox_.wait([this] { return pool_ && pool_->progress(); });
      if (auto* work = std::get_if<StepOrder>(&order.what)) {
        step(*work, order.stamp);
      } else if (const auto* ended = std::get_if<DropOrder>(&order.what)) {
        for (const RequestId request : ended->requests)
          if (sequences_.erase(request) == 0) refuse(request, "is dropped, but not here");
      } else if (const auto* stop = std::get_if<StopOrder>(&order.what)) {
        unfinished = stop->unfinished;
        break;
      } else {
        inbox_.refuse(order.what);
      }
    }
    if (unfinished == Unfinished::none && !sequences_.empty())
      throw EnvironmentError(fmt::format("{}: told to stop with prompts that have not ended", inbox_.where()));
    context_.engine->set_background({});
    context_.transfer->flush(context_.deadline_s);
    if (pool_) pool_->finish(context_.deadline_s);
    WorkerStatistics counts = pool_ ? pool_->statistics() : WorkerStatistics{};
    counts.modelled_s = context_.engine->modelled_s();
    counts.payload += moved_;
    counts.payload.exchange += context_.engine->exchanged();
    counts.step_times[context_.rank] = context_.engine->step_times();
    inbox_.report_stopped(counts);
  }

 private:
  [[noreturn]] void refuse(RequestId request, const std::string& why) const {
    throw EnvironmentError(fmt::format("{}: request {} {}", inbox_.where(), request, why));
  }

  void step(StepOrder& order, RunTime start) {
    const WallTime begun = context_.now();
    std::vector<Piece> pieces = take_up(order);
    load_prefixes(pieces);
    const std::optional<RunTime> end = compute(pieces, start);
    PrefillReport report;
    for (const Piece& piece : pieces) report.results.push_back(piece.result);
    if (pool_) report.misses = pool_->take_misses();
    if (end) {
      // On a modelled clock the report says when, however late it is. Once the coordinator has it, it may send others to
      // the new blocks.
      pass_on(pieces, *end);
      if (pool_) {
        const Stopwatch watch(moved_.pool_store.wall_s);
        pool_->finish(context_.deadline_s);
      }
      inbox_.report(report, *end);
    } else {
      // What follows the report is off the path of the first token.
      inbox_.report(report, start);
      pass_on(pieces, start);
      if (pool_) pool_->settle(most_settling * (context_.now() - begun).value);
    }
  }

  /// The sequences of the order; those that begin are made.
  std::vector<Piece> take_up(StepOrder& order) {
    std::vector<Piece> pieces;
    for (StepOrder::Item& item : order.items) {
      if (item.begins) {
        Sequence fresh{std::move(*item.begins), nullptr, {}};
        fresh.state = context_.engine->make_state(fresh.prompt_tokens());
        if (!sequences_.try_emplace(item.request, std::move(fresh)).second) refuse(item.request, "begins twice");
      }
      const auto found = sequences_.find(item.request);
      if (found == sequences_.end()) refuse(item.request, "goes on, but has not begun");
      Sequence& sequence = found->second;
      const int length = sequence.state->length();
      if (item.first != length || length == sequence.prompt_tokens())
        refuse(item.request,
               fmt::format("goes on from token {} of {}, but is at {}", item.first, sequence.prompt_tokens(), length));
      Piece& piece = pieces.emplace_back();
      piece.sequence = &sequence;
      piece.begins = item.begins.has_value();
      piece.first = length;
      piece.count = item.count;
      piece.result.request = item.request;
    }
    return pieces;
  }

  /// Two loops: all prompts are asked for before the first one's blocks are waited for, so that their loads overlap.
  void load_prefixes(std::vector<Piece>& pieces) {
    const auto timed = [&](Piece& piece, auto&& load) {
      const WallTime start = context_.now();
      try {
        load(*piece.sequence);
      } catch (const EnvironmentError& error) {
        throw EnvironmentError(
            fmt::format("{}: request {}, from the pool: {}", inbox_.where(), piece.result.request, error.what()));
      }
      const double took_s = (context_.now() - start).value;
      piece.result.pool += run_span(took_s);
      moved_.pool_load.wall_s += took_s;
    };
    if (pool_) {
      for (Piece& piece : pieces)
        if (piece.begins)
          timed(piece, [&](Sequence& s) { pool_->start(s.order.prompt, s.order.granted_tokens, s.blocks); });
      for (Piece& piece : pieces)
        if (piece.begins) timed(piece, [&](Sequence& s) { pool_->take(s.blocks, *s.state); });
    }
    for (Piece& piece : pieces) {
      Sequence& sequence = *piece.sequence;
      // Granted without a pool: payloads are elided, so the state's length is all of it.
      if (!pool_ && piece.begins && sequence.order.granted_tokens > 0)
        sequence.state->place_tokens(sequence.order.granted_tokens);
      piece.result.hit_tokens = sequence.state->length() - piece.first;
      piece.result.computed_tokens = std::min(piece.count, sequence.prompt_tokens() - sequence.state->length());
    }
  }

  /// The step of the whole instance, in which a die without a request takes part, too. @returns its end on a modelled
  /// clock
  std::optional<RunTime> compute(std::vector<Piece>& pieces, RunTime start) {
    std::vector<StepWork> works;
    std::int64_t computed = 0;
    for (const Piece& piece : pieces) {
      const Sequence& sequence = *piece.sequence;
      const auto first = static_cast<std::size_t>(sequence.state->length());
      const auto count = static_cast<std::size_t>(piece.result.computed_tokens);
      StepWork& work = works.emplace_back();
      work.request = piece.result.request;
      work.state = sequence.state.get();
      work.tokens = std::span(sequence.order.prompt).subspan(first, count);
      work.sampler = sequence.order.sampler;
      if (piece.begins) work.loads = sequence.order.loads;
      work.draw = first + count == sequence.order.prompt.size() ? Draw::token : Draw::none;
      computed += piece.result.computed_tokens;
    }
    const StepOutcome outcome = context_.engine->step(works, start);
    for (std::size_t i = 0; i < pieces.size(); ++i) {
      PrefillResult& result = pieces[i].result;
      result.first_token = outcome.tokens[i];
      // The exchange carried the rows of all; each request is charged for its own.
      result.exchange = RunSpan(static_cast<RunSpan::rep>(static_cast<double>(outcome.exchange.count()) *
                                                          result.computed_tokens / static_cast<double>(computed)));
    }
    return outcome.end;
  }

  /// What is new of each prompt: KV to the decode dies, blocks to the pool. Prompts that are whole are then done with.
  void pass_on(std::vector<Piece>& pieces, RunTime stamp) {
    for (Piece& piece : pieces) {
      Sequence& sequence = *piece.sequence;
      hand_over(piece, stamp);
      // Without finite logits what was computed is of no use to anyone.
      const bool sound = !sequence.whole() || piece.result.first_token;
      if (pool_ && sound) {
        const Stopwatch watch(moved_.pool_store.wall_s);
        pool_->store(sequence.blocks, *sequence.state, context_.deadline_s);
      }
      if (sequence.whole()) sequences_.erase(piece.result.request);
    }
  }

  /// Sends what is new of the prompt's state to the decode die, in messages of bounded size. The coordinator counts on
  /// it: whatever a report says of a prompt has been sent or will be.
  void hand_over(const Piece& piece, RunTime stamp) {
    const Sequence& sequence = *piece.sequence;
    if (sequence.order.max_output == 1) return;
    const Stopwatch watch(moved_.handover.wall_s);
    const int end = sequence.state->length();
    // Without payload there is nothing to cut.
    const auto most =
        bytes_per_token_ == 0
            ? end
            : static_cast<int>(std::clamp<std::size_t>(
                  static_cast<std::size_t>(context_.config->handover_piece.value) / bytes_per_token_, 1, 1u << 30));
    for (int first = piece.first; first < end; first += most) {
      const int count = std::min(most, end - first);
      // The end of the state goes with the end of the prompt.
      const std::size_t end_bytes = first + count == sequence.prompt_tokens() ? context_.engine->state_end_bytes() : 0;
      std::span<std::byte> payload;
      std::vector<std::byte> message =
          make_kv_piece(piece.result.request, first, count, bytes_per_token_, stamp, payload, end_bytes);
      const auto of_tokens = payload.first(payload.size() - end_bytes);
      sequence.state->export_tokens(first, count, of_tokens);
      if (end_bytes > 0) sequence.state->export_end(end, payload.last(end_bytes));
      moved_.handover.bytes += of_tokens.size();
      context_.transfer->send(sequence.order.decode_rank, static_cast<int>(MessageKind::kv_piece), std::move(message));
    }
  }

  const WorkerContext& context_;
  WorkerInbox inbox_;
  const std::size_t bytes_per_token_;
  std::optional<PrefixBlocks> pool_;
  std::unordered_map<RequestId, Sequence> sequences_;  ///< whose prompt is not whole
  PayloadFigures moved_;                               ///< but for what pool and engine count
};

}  // namespace

void run_prefill_worker(const WorkerContext& context) { PrefillWorker(context).run(); }

}  // namespace supernode::serving
