#include <algorithm>
#include <optional>
#include <utility>

#include <fmt/format.h>

#include "runtime/core/error.hpp"
#include "runtime/core/stopwatch.hpp"
#include "runtime/serving/workers/prefix_blocks.hpp"
#include "runtime/serving/workers/worker_inbox.hpp"

namespace supernode::serving {
namespace {

/// How long a die waits after a batch for its stores, as a share of the batch's time. A block that the next batch finds
/// saves far more than its store takes; slow owners must not hold up prefill all the same.
constexpr double most_settling = 0.5;

/// A request while this die works on it.
struct Sequence {
  const PrefillOrder::Item* item = nullptr;
  std::unique_ptr<EngineState> state;
  PromptBlocks blocks;
  PrefillResult result;

  std::span<const std::int32_t> uncomputed() const {
    return std::span(item->prompt).subspan(static_cast<std::size_t>(state->length()));
  }
};

class PrefillWorker {
 public:
  explicit PrefillWorker(const WorkerContext& context)
      : context_(context), inbox_(context), bytes_per_token_(context.engine->state_bytes_per_token()) {
    if (context.pool) pool_.emplace(context, *context.engine);
  }

  void run() {
    if (pool_) context_.engine->set_background([this] { pool_->progress_stores(); });
    for (;;) {
      const Stamped<Order> order = inbox_.wait([this] { return pool_ && pool_->progress(); });
      if (std::holds_alternative<StopOrder>(order.what)) break;
      const auto* batch = std::get_if<PrefillOrder>(&order.what);
      if (!batch) inbox_.refuse(order.what);
      prefill(*batch, order.stamp);
    }
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
  void prefill(const PrefillOrder& batch, RunTime start) {
    const WallTime begun = context_.now();
    std::vector<Sequence> sequences = make_sequences(batch);
    load_prefixes(sequences);
    const std::optional<RunTime> end = compute(sequences, start);
    PrefillReport report;
    for (const Sequence& sequence : sequences) report.results.push_back(sequence.result);
    if (end) {
      // On a modelled clock the report says when, however late it is. Once the coordinator has it, it may send others to
      // the new blocks.
      pass_on(sequences, *end);
      if (pool_) {
        const Stopwatch watch(moved_.pool_store.wall_s);
        pool_->finish(context_.deadline_s);
      }
      inbox_.report(report, *end);
    } else {
      // What follows the report is off the path of the first token.
      inbox_.report(report, start);
      pass_on(sequences, start);
      if (pool_) pool_->settle(most_settling * (context_.now() - begun).value);
    }
  }

  /// KV to the decode dies, new blocks to the pool.
  void pass_on(const std::vector<Sequence>& sequences, RunTime stamp) {
    for (const Sequence& sequence : sequences) {
      if (!sequence.result.first_token) continue;  // what was computed is of no use to anyone
      hand_over(sequence, stamp);
      if (!pool_) continue;
      const Stopwatch watch(moved_.pool_store.wall_s);
      pool_->store(sequence.blocks, *sequence.state, context_.deadline_s);
    }
  }

  std::vector<Sequence> make_sequences(const PrefillOrder& batch) {
    std::vector<Sequence> sequences(batch.items.size());
    for (std::size_t i = 0; i < batch.items.size(); ++i) {
      sequences[i].item = &batch.items[i];
      sequences[i].state = context_.engine->make_state(static_cast<int>(batch.items[i].prompt.size()));
      sequences[i].result.request = batch.items[i].request;
    }
    return sequences;
  }

  /// Two loops: all prompts are asked for before the first one's blocks are waited for, so that their loads overlap.
  void load_prefixes(std::vector<Sequence>& sequences) {
    const auto timed = [&](Sequence& sequence, auto&& step) {
      const WallTime start = context_.now();
      try {
        step();
      } catch (const EnvironmentError& error) {
        throw EnvironmentError(
            fmt::format("{}: request {}, from the pool: {}", inbox_.where(), sequence.item->request, error.what()));
      }
      const double took_s = (context_.now() - start).value;
      sequence.result.pool += run_span(took_s);
      moved_.pool_load.wall_s += took_s;
    };
    if (pool_) {
      for (Sequence& sequence : sequences)
        timed(sequence, [&] { pool_->start(sequence.item->prompt, sequence.item->granted_tokens, sequence.blocks); });
      for (Sequence& sequence : sequences) timed(sequence, [&] { pool_->take(sequence.blocks, *sequence.state); });
    }
    for (Sequence& sequence : sequences) {
      // Granted without a pool: payloads are elided, so the state's length is all of it.
      if (!pool_ && sequence.item->granted_tokens > 0) sequence.state->place_tokens(sequence.item->granted_tokens);
      sequence.result.hit_tokens = sequence.state->length();
      sequence.result.computed_tokens = static_cast<int>(sequence.uncomputed().size());
    }
  }

  /// The step of the whole batch, in which a die without a request takes part, too. @returns its end on a modelled clock
  std::optional<RunTime> compute(std::vector<Sequence>& sequences, RunTime start) {
    std::vector<StepWork> works;
    std::int64_t computed = 0;
    for (Sequence& sequence : sequences) {
      works.push_back({sequence.item->request, sequence.state.get(), sequence.uncomputed(), sequence.item->sampler,
                       sequence.item->loads});
      computed += sequence.result.computed_tokens;
    }
    const StepOutcome outcome = context_.engine->step(works, start);
    for (std::size_t i = 0; i < sequences.size(); ++i) {
      PrefillResult& result = sequences[i].result;
      result.first_token = outcome.tokens[i];
      // The exchange carried the rows of all; each request is charged for its own.
      result.exchange = RunSpan(static_cast<RunSpan::rep>(static_cast<double>(outcome.exchange.count()) *
                                                          result.computed_tokens / static_cast<double>(computed)));
    }
    return outcome.end;
  }

  /// Sends the prompt's state to the decode die, in pieces.
  void hand_over(const Sequence& sequence, RunTime stamp) {
    if (sequence.item->max_output == 1) return;
    const Stopwatch watch(moved_.handover.wall_s);
    const int tokens = sequence.state->length();
    // Without payload there is nothing to cut.
    const auto most =
        bytes_per_token_ == 0
            ? tokens
            : static_cast<int>(std::clamp<std::size_t>(
                  static_cast<std::size_t>(context_.config->handover_piece.value) / bytes_per_token_, 1, 1u << 30));
    for (int first = 0; first < tokens; first += most) {
      const int count = std::min(most, tokens - first);
      const std::size_t end_bytes = first + count == tokens ? context_.engine->state_end_bytes() : 0;
      std::span<std::byte> payload;
      std::vector<std::byte> message =
          make_kv_piece(sequence.item->request, first, count, bytes_per_token_, stamp, payload, end_bytes);
      const auto tokens_out = payload.first(payload.size() - end_bytes);
      sequence.state->export_tokens(first, count, tokens_out);
      if (end_bytes > 0) sequence.state->export_end(tokens, payload.last(end_bytes));
      moved_.handover.bytes += tokens_out.size();
      context_.transfer->send(sequence.item->decode_rank, static_cast<int>(MessageKind::kv_piece), std::move(message));
    }
  }

  const WorkerContext& context_;
  WorkerInbox inbox_;
  const std::size_t bytes_per_token_;
  std::optional<PrefixBlocks> pool_;
  PayloadFigures moved_;  ///< but for what pool and engine count
};

}  // namespace

void run_prefill_worker(const WorkerContext& context) { PrefillWorker(context).run(); }

}  // namespace supernode::serving
