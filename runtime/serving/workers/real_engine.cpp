#include "runtime/serving/workers/real_engine.hpp"

#include <algorithm>
#include <map>
#include <utility>

#include "moe/sampler.hpp"
#include "runtime/core/error.hpp"

namespace supernode::serving {
namespace {

class RealState : public EngineState {
 public:
  RealState(moe::Transformer& model, int max_tokens, int block_tokens)
      : model_(model),
        state_(std::make_unique<moe::SequenceState>(model.make_state())),
        block_tokens_(state_->has_draft() ? block_tokens : 0) {
    state_->reserve(max_tokens);
  }

  int length() const override { return state_->main.length(); }
  void export_tokens(int first, int count, std::span<std::byte> out) const override {
    catch_up();
    state_->export_tokens(first, count, out);
  }
  void import_tokens(int first, int count, std::span<const std::byte> bytes) override {
    state_->import_tokens(first, count, bytes);
  }
  void export_end(int tokens, std::span<std::byte> out) const override {
    if (out.empty()) return;
    if (tokens == length()) return state_->export_end(out);
    const std::span<const std::byte> end = std::as_bytes(std::span(ends_.at(tokens)));
    expect(end.size() == out.size(), "bytes of a state's end");
    std::ranges::copy(end, out.begin());
  }
  void import_end(std::span<const std::byte> bytes) override { state_->import_end(bytes); }

  moe::SequenceState& state() { return *state_; }
  /// Shows the module all positions that it can see. Nobody can tell but by the time it takes.
  void catch_up() const {
    if (state_->complete()) model_.catch_up(*state_);
  }
  /// Tokens that were computed. @param hidden [tokens, hidden_size]
  void note(std::span<const std::int32_t> tokens, std::span<const float> hidden) {
    state_->note_unseen(tokens, hidden);
    if (block_tokens_ == 0) return;
    const auto width = static_cast<std::size_t>(state_->hidden_size);
    const int first = length() - static_cast<int>(tokens.size());
    for (int end = (first / block_tokens_ + 1) * block_tokens_; end <= length(); end += block_tokens_) {
      const auto row = hidden.subspan(static_cast<std::size_t>(end - 1 - first) * width, width);
      ends_[end].assign(row.begin(), row.end());
    }
  }

 private:
  moe::Transformer& model_;
  std::unique_ptr<moe::SequenceState> state_;
  const int block_tokens_;
  std::map<int, std::vector<float>> ends_;  ///< hidden rows of the last positions of blocks, by tokens
};

RealState& state_of(const StepWork& work) { return static_cast<RealState&>(*work.state); }

}  // namespace

RealEngine::RealEngine(moe::Transformer& model, RealEngineOptions options)
    : model_(model), options_(options), exchanged_before_(model.exchanged_bytes()) {
  expect(model.can_draft() == (options.speculation != Speculation::off),
         "RealEngine: speculation takes a model with its MTP module, and such a model takes speculation");
  const moe::SequenceState state = model.make_state();
  bytes_per_token_ = state.bytes_per_token();
  end_bytes_ = state.end_bytes();
  if (options.records == StepRecords::kept) model.record_routing(moe::RoutingRecord::kept);
}

std::unique_ptr<EngineState> RealEngine::make_state(int max_tokens) {
  return std::make_unique<RealState>(model_, max_tokens, options_.block_tokens);
}

std::vector<RealEngine::Input> RealEngine::make_inputs(std::span<const StepWork> works, RunSpan& exchange) {
  std::vector<Input> inputs;
  for (const StepWork& work : works)
    inputs.push_back({{work.tokens.begin(), work.tokens.end()},
                      false,
                      state_of(work).state().complete(),
                      work.state->length(),
                      work.draw});
  if (options_.speculation == Speculation::guess) guess(works, inputs, exchange);
  return inputs;
}

void RealEngine::guess(std::span<const StepWork> works, std::vector<Input>& inputs, RunSpan& exchange) {
  std::vector<moe::DraftChunk> drafts;
  std::vector<std::size_t> drafted;
  int tokens = 0;
  for (std::size_t i = 0; i < works.size(); ++i) {
    Input& input = inputs[i];
    moe::SequenceState& state = state_of(works[i]).state();
    input.guessed = input.tokens.size() == 1 && input.complete && !state.unseen.empty() &&
                    input.first + 2 <= model_.config().max_positions;
    tokens += static_cast<int>(input.tokens.size()) + (input.guessed ? 1 : 0);
    if (!input.guessed) continue;
    // No more tokens than the model gets: the last two positions, or the last one.
    if (state.unseen.follows.size() > 1) model_.catch_up(state);
    state.unseen.follows.push_back(input.tokens[0]);
    drafts.push_back({&state.draft, state.unseen.hidden, state.unseen.follows});
    drafted.push_back(i);
  }
  model_.begin_step(tokens);
  exchange += run_span(model_.last_step().exchange);
  const moe::StepResult guesses = model_.draft(drafts);
  exchange += run_span(model_.last_step().exchange);
  for (std::size_t row = 0; row < drafted.size(); ++row) {
    inputs[drafted[row]].tokens.push_back(moe::most_likely(guesses.row(static_cast<int>(row))));
    state_of(works[drafted[row]]).state().unseen = {};
  }
}

emulation::DieStep RealEngine::record(std::span<const Input> inputs) const {
  emulation::DieStep step;
  for (int m = 0; m < model_.microbatches(); ++m) {
    emulation::MicrobatchStep& part = step.microbatches.emplace_back();
    int last = -1, end = 0;  // chunk and end of the piece before
    for (const moe::ChunkPiece& piece : model_.pieces(m)) {
      const Input& input = inputs[static_cast<std::size_t>(piece.chunk)];
      emulation::AttentionWork work;
      work.add(piece.count, input.first + piece.first);
      // Each microbatch reads a sequence's context once, whatever the slices; the sequence counts where it ends.
      if (piece.chunk == last) work.context = piece.first + piece.count - end;
      last = piece.chunk;
      end = piece.first + piece.count;
      if (end < static_cast<int>(input.tokens.size()) || input.draw == Draw::none) work.sequences = 0;
      part.work += work;
    }
    const std::span<const std::int32_t> rows = model_.routed_rows(m);
    part.rows.assign(rows.begin(), rows.end());
    if (options_.speculation != Speculation::guess) continue;
    const std::span<const std::int32_t> of_module = model_.drafted_rows(m);
    part.rows.insert(part.rows.end(), of_module.begin(), of_module.end());
  }
  return step;
}

void RealEngine::finish(const StepWork& work, const Input& input, const moe::StepResult& result, int row,
                        std::size_t hidden, StepOutcome& outcome) {
  const auto draw = [&](int at, std::size_t tokens) -> SampledToken {
    const std::span<const float> logits = result.row(at);
    if (!moe::all_finite(logits)) return std::nullopt;
    return moe::sample(logits, work.sampler, work.request, input.first + static_cast<int>(tokens));
  };
  const std::size_t given = work.tokens.size();
  const SampledToken token = work.draw == Draw::none ? std::nullopt : draw(row, given);
  outcome.tokens.push_back(token);
  std::size_t kept = given;
  if (options_.speculation == Speculation::guess) {
    std::vector<std::int32_t>& further = outcome.further.emplace_back();
    if (input.guessed) {
      ++guesses_.drafted;
      // Where what follows is no number, the guess is dropped: the next step then says so.
      const SampledToken next = token == input.tokens.back() ? draw(row + 1, given + 1) : std::nullopt;
      if (next) {
        ++guesses_.accepted;
        further.push_back(*next);
        ++kept;
      }
    }
  }
  RealState& state = state_of(work);
  if (kept < input.tokens.size()) state.state().main.truncate(input.first + static_cast<int>(kept));
  if (!input.complete) return;
  const auto width = static_cast<std::size_t>(state.state().hidden_size);
  state.note(std::span(input.tokens).first(kept), result.hidden.subspan(hidden * width, kept * width));
}

void RealEngine::set_background(std::function<void()> work) {
  if (work)
    model_.set_observer([work = std::move(work)](const moe::LayerTrace&) { work(); });
  else
    model_.set_observer({});
}

StepOutcome RealEngine::step(std::span<const StepWork> works, RunTime) {
  StepOutcome outcome;
  const std::vector<Input> inputs = make_inputs(works, outcome.exchange);
  std::vector<moe::SequenceChunk> chunks;
  for (std::size_t i = 0; i < works.size(); ++i)
    chunks.push_back({&state_of(works[i]).state().main, inputs[i].tokens, inputs[i].guessed});
  const moe::StepResult result = model_.forward(chunks);
  outcome.exchange += run_span(model_.last_step().exchange);
  exchange_s_ += to_seconds(outcome.exchange);
  if (options_.records == StepRecords::kept) outcome.record = record(inputs);
  int row = 0;
  std::size_t token = 0;
  for (std::size_t i = 0; i < works.size(); ++i) {
    finish(works[i], inputs[i], result, row, token, outcome);
    row += inputs[i].guessed ? 2 : 1;
    token += inputs[i].tokens.size();
  }
  return outcome;
}

}  // namespace supernode::serving
