#include "runtime/serving/workers/real_engine.hpp"

#include <algorithm>
#include <map>
#include <utility>

#include "moe/sampler.hpp"
#include "runtime/core/error.hpp"
#include "runtime/serving/workers/computed_tokens.hpp"

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
    const auto found = ends_.find(tokens);
    if (found == ends_.end() && tokens == length()) return state_->export_end(out);
    expect(found != ends_.end(), "the end of a state behind tokens that were not computed here");
    const std::span<const std::byte> end = std::as_bytes(std::span(found->second));
    expect(end.size() == out.size(), "bytes of a state's end");
    std::ranges::copy(end, out.begin());
  }
  void import_end(std::span<const std::byte> bytes) override { state_->import_end(bytes); }
  bool can_export_end(int tokens) const override { return computed_.contains(tokens - 1); }

  moe::SequenceState& state() { return *state_; }
  /// Shows the module all positions that it can see. Nobody can tell but by the time it takes.
  void catch_up() const {
    if (state_->complete()) model_.catch_up(*state_);
  }
  /// Tokens that were computed. @param hidden [tokens, hidden_size]
  void note(std::span<const std::int32_t> tokens, std::span<const float> hidden) {
    state_->note_unseen(tokens, hidden);
    keep_ends({length() - static_cast<int>(tokens.size()), static_cast<int>(tokens.size())}, hidden);
  }
  /// Tokens of a shared work that this die computed. @param hidden [range.count, hidden_size], or empty without a module
  void note_computed(moe::TokenShare range, std::span<const float> hidden) {
    computed_.add(range);
    keep_ends(range, hidden);
  }

 private:
  void keep_ends(moe::TokenShare range, std::span<const float> hidden) {
    if (block_tokens_ == 0) return;
    const auto width = static_cast<std::size_t>(state_->hidden_size);
    for (int end = (range.first / block_tokens_ + 1) * block_tokens_; end <= range.first + range.count;
         end += block_tokens_) {
      const auto row = hidden.subspan(static_cast<std::size_t>(end - 1 - range.first) * width, width);
      ends_[end].assign(row.begin(), row.end());
    }
  }

  moe::Transformer& model_;
  std::unique_ptr<moe::SequenceState> state_;
  const int block_tokens_;
  std::map<int, std::vector<float>> ends_;  ///< hidden rows of the last positions of blocks, by tokens
  ComputedTokens computed_;
};

RealState& state_of(const StepWork& work) { return static_cast<RealState&>(*work.state); }

SampledToken drawn(const StepWork& work, std::span<const float> logits, int position) {
  if (!moe::all_finite(logits)) return std::nullopt;
  return moe::sample(logits, work.sampler, work.request, position);
}

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
  // Of a prefix from the pool the last position waits for its next token, on each die alike.
  for (const StepWork& work : works)
    if (work.shared && !state_of(work).state().unseen.empty())
      model_.catch_up(state_of(work).state(), work.tokens.front());
  for (const StepWork& work : works)
    inputs.push_back({{work.tokens.begin(), work.tokens.end()},
                      false,
                      state_of(work).state().complete(),
                      work.state->length(),
                      work.draw,
                      work.shared});
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
      work.add(piece.all_count, input.first + piece.all_first);
      // Each microbatch reads a sequence's context once, whatever the slices; the sequence counts where it ends.
      if (piece.chunk == last) work.context = piece.all_first + piece.all_count - end;
      last = piece.chunk;
      end = piece.all_first + piece.all_count;
      if (end < static_cast<int>(input.tokens.size()) || input.draw == Draw::none) work.sequences = 0;
      if (input.shared)
        work = work.shared(input.shared->dies, piece.count, input.shared->home == model_.rank() ? work.sequences : 0);
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
  const auto draw = [&](int at, std::size_t tokens) {
    return drawn(work, result.row(at), input.first + static_cast<int>(tokens));
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

std::vector<moe::TokenShare> RealEngine::computed_of(int chunk) const {
  std::vector<moe::TokenShare> ranges;
  for (int m = 0; m < model_.microbatches(); ++m)
    for (const moe::ChunkPiece& piece : model_.pieces(m))
      if (piece.chunk == chunk && piece.count > 0) ranges.push_back({piece.first, piece.count});
  std::ranges::sort(ranges, {}, &moe::TokenShare::first);
  return ranges;
}

void RealEngine::finish_shared(const StepWork& work, const Input& input, std::span<const moe::TokenShare> computed,
                               const moe::StepResult& result, int row, std::size_t hidden, StepOutcome& outcome) {
  const bool home = work.shared->home == model_.rank();
  const int end = input.first + static_cast<int>(work.tokens.size());
  outcome.tokens.push_back(home && work.draw == Draw::token ? drawn(work, result.row(row), end) : std::nullopt);
  RealState& state = state_of(work);
  moe::SequenceState& kept = state.state();
  const auto width = static_cast<std::size_t>(kept.hidden_size);
  std::size_t rows = 0;
  state.note_computed({input.first, 0}, {});  // shared, even where this die had nothing
  for (const moe::TokenShare& range : computed) {
    const auto count = static_cast<std::size_t>(range.count);
    const auto mine = result.hidden.subspan((hidden + rows) * width, count * width);
    state.note_computed({input.first + range.first, range.count}, mine);
    rows += count;
  }
  if (!kept.has_draft()) return;
  const auto mine = result.hidden.subspan(hidden * width, rows * width);
  std::vector<std::int32_t> follows(work.tokens.begin() + 1, work.tokens.end());
  follows.push_back(work.shared->next.value_or(0));
  const auto behind = work.shared->next ? moe::Behind::known : moe::Behind::unknown;
  model_.catch_up_shared(kept, follows, mine, work.shared->home, behind);
  outcome.exchange += run_span(model_.last_step().exchange);
  if (home && behind == moe::Behind::unknown) {
    const auto last = mine.last(width);
    kept.unseen.hidden.assign(last.begin(), last.end());
  }
}

/// What one die has drawn of each work that all share, all learn.
void RealEngine::share_tokens(std::span<const StepWork> works, std::vector<SampledToken>& tokens) {
  std::vector<double> drawn;
  for (std::size_t i = 0; i < works.size(); ++i)
    if (works[i].shared && works[i].draw == Draw::token) drawn.push_back(tokens[i] ? *tokens[i] + 1.0 : 0.0);
  if (drawn.empty()) return;
  model_.take_largest(drawn);
  auto next = drawn.begin();
  for (std::size_t i = 0; i < works.size(); ++i) {
    if (!works[i].shared || works[i].draw != Draw::token) continue;
    const double token = *next++;
    tokens[i] = token > 0 ? SampledToken(static_cast<std::int32_t>(token - 1)) : std::nullopt;
  }
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
    chunks.push_back({&state_of(works[i]).state().main, inputs[i].tokens, inputs[i].guessed,
                      works[i].shared ? std::optional(works[i].shared->home) : std::nullopt});
  const moe::StepResult result = model_.forward(chunks);
  outcome.exchange += run_span(model_.last_step().exchange);
  exchange_s_ += to_seconds(outcome.exchange);
  if (options_.records == StepRecords::kept) outcome.record = record(inputs);
  std::vector<std::vector<moe::TokenShare>> computed(works.size());
  for (std::size_t i = 0; i < works.size(); ++i)
    if (works[i].shared) computed[i] = computed_of(static_cast<int>(i));
  int row = 0;
  std::size_t token = 0;
  for (std::size_t i = 0; i < works.size(); ++i) {
    if (works[i].shared) {
      finish_shared(works[i], inputs[i], computed[i], result, row, token, outcome);
      if (works[i].shared->home == model_.rank()) ++row;
      for (const moe::TokenShare& range : computed[i]) token += static_cast<std::size_t>(range.count);
      continue;
    }
    finish(works[i], inputs[i], result, row, token, outcome);
    row += inputs[i].guessed ? 2 : 1;
    token += inputs[i].tokens.size();
  }
  share_tokens(works, outcome.tokens);
  return outcome;
}

}  // namespace supernode::serving
