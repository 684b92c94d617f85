#include "moe/speculative.hpp"

#include <algorithm>
#include <utility>

#include "moe/model/guess_trial.hpp"
#include "moe/sampler.hpp"
#include "runtime/core/clock.hpp"
#include "runtime/core/error.hpp"

namespace supernode::moe {

SpeculativeDecoder::SpeculativeDecoder(Transformer& model, Choose choose, Guessing guessing)
    : model_(model), choose_(std::move(choose)), guessing_(guessing), trial_(std::make_unique<GuessTrial>()) {}

SpeculativeDecoder::~SpeculativeDecoder() = default;

bool SpeculativeDecoder::guessing() const {
  return model_.can_draft() && (guessing_ == Guessing::always || trial_->worthwhile());
}

int SpeculativeDecoder::add(std::vector<std::int32_t> prompt, int max_tokens) {
  Sequence sequence;
  sequence.prompt_length = prompt.size();
  sequence.limit = prompt.size() + static_cast<std::size_t>(max_tokens);
  sequence.tokens = std::move(prompt);
  sequence.finished = max_tokens <= 0;
  sequence.state = model_.make_state();
  sequence.state.reserve(static_cast<int>(sequence.limit));
  sequences_.push_back(std::move(sequence));
  return static_cast<int>(sequences_.size()) - 1;
}

int SpeculativeDecoder::adopt(SequenceState state, std::vector<std::int32_t> tokens, std::size_t prompt_length,
                              int max_tokens) {
  expect(static_cast<std::size_t>(state.main.length()) < tokens.size() && prompt_length <= tokens.size(),
         "SpeculativeDecoder::adopt: no token to go on with");
  const int index = add(std::move(tokens), max_tokens);
  Sequence& sequence = sequences_[static_cast<std::size_t>(index)];
  sequence.prompt_length = prompt_length;
  sequence.state = std::move(state);
  sequence.state.reserve(static_cast<int>(sequence.limit));
  if (sequence.state.complete())
    model_.catch_up(sequence.state, sequence.tokens[static_cast<std::size_t>(sequence.state.main.length())]);
  return index;
}

SequenceState SpeculativeDecoder::release(int index) {
  Sequence& sequence = sequences_[static_cast<std::size_t>(index)];
  sequence.finished = true;
  sequence.guess.reset();
  SequenceState state = std::exchange(sequence.state, model_.make_state());
  if (state.has_draft() && state.draft.length() == state.main.length() && state.main.length() > 0) {
    state.draft.truncate(state.main.length() - 1);  // what is exported does not depend on the token behind
    state.unseen = {std::move(sequence.last_hidden), {}};
  }
  return state;
}

bool SpeculativeDecoder::step() {
  if (failure_) model_.abandon(failure_);
  active_.clear();
  for (std::size_t i = 0; i < sequences_.size(); ++i)
    if (!sequences_[i].finished) active_.push_back(static_cast<int>(i));
  const bool timed = guessing_ == Guessing::measured && guessing() && all_have_guesses();
  const bool used = !timed || trial_->use_guesses();
  std::vector<SequenceChunk> chunks;
  for (const int index : active_) {
    Sequence& s = sequences_[static_cast<std::size_t>(index)];
    if (!used) s.guess.reset();
    s.input.assign(s.tokens.begin() + s.state.main.length(), s.tokens.end());
    if (s.guess) s.input.push_back(*s.guess);
    chunks.push_back({&s.state.main, s.input, s.guess.has_value()});
  }
  const double start = timed ? wall_now().value : 0;
  const StepResult result = model_.forward(chunks, guessing() && !chunks.empty() ? Guesses::wanted : Guesses::none);
  if (result.idle) return false;
  const double stepped = timed ? wall_now().value : 0;
  std::vector<std::size_t> verified;
  int row = 0, tokens = 0;
  for (const int index : active_) {
    Sequence& s = sequences_[static_cast<std::size_t>(index)];
    const int rows = s.guess ? 2 : 1, before = static_cast<int>(s.tokens.size());
    verified.push_back(verify(index, result, row));
    s.guess.reset();
    row += rows;
    tokens += static_cast<int>(s.tokens.size()) - before;
  }
  if (result.guesses) propose(result, verified);
  if (timed && tokens > 0) trial_->record(used, stepped - start, wall_now().value - stepped, tokens);
  return true;
}

bool SpeculativeDecoder::all_have_guesses() const {
  return !active_.empty() && std::all_of(active_.begin(), active_.end(), [&](int index) {
    return sequences_[static_cast<std::size_t>(index)].guess.has_value();
  });
}

std::int32_t SpeculativeDecoder::choose(std::span<const float> logits, int index) {
  Sequence& s = sequences_[static_cast<std::size_t>(index)];
  const int position = static_cast<int>(s.tokens.size());
  if (all_finite(logits)) return choose_(logits, index, position);
  s.finished = true;
  if (!failure_) failure_ = std::make_exception_ptr(not_finite(logits, position));
  return 0;
}

void SpeculativeDecoder::append(Sequence& s, std::int32_t token) {
  if (model_.config().is_end(token)) {
    s.finished = true;
    return;
  }
  s.tokens.push_back(token);
  s.finished = s.tokens.size() >= s.limit;
}

std::size_t SpeculativeDecoder::verify(int index, const StepResult& result, int first_row) {
  Sequence& s = sequences_[static_cast<std::size_t>(index)];
  const std::int32_t token = choose(result.row(first_row), index);
  if (!s.finished) append(s, token);
  if (!s.guess) return s.input.size();
  ++counts_.guessed;
  if (token == *s.guess && !s.finished) {
    ++counts_.kept;
    const std::int32_t second = choose(result.row(first_row + 1), index);
    if (!s.finished) append(s, second);
    return s.input.size();
  }
  s.state.main.truncate(s.state.main.length() - 1);
  return s.input.size() - 1;
}

void SpeculativeDecoder::propose(const StepResult& result, std::span<const std::size_t> verified) {
  const auto width = static_cast<std::size_t>(model_.config().hidden_size);
  std::vector<DraftChunk> drafts;
  std::vector<Sequence*> receivers;
  std::size_t first = 0;
  for (std::size_t i = 0; i < active_.size(); ++i) {
    Sequence& s = sequences_[static_cast<std::size_t>(active_[i])];
    // A guess for the last token of all would save nothing.
    // Nor can the module go on where it has not seen the tokens before (a state that was adopted without its part).
    const auto start = static_cast<std::size_t>(s.state.draft.length());
    const bool complete = start + verified[i] == static_cast<std::size_t>(s.state.main.length());
    if (guessing() && complete && !s.finished && s.tokens.size() + 1 < s.limit) {
      drafts.push_back({&s.state.draft, result.hidden.subspan(first * width, verified[i] * width),
                        std::span(s.tokens).subspan(start + 1, verified[i])});
      const std::span<const float> last = drafts.back().hidden.last(width);
      s.last_hidden.assign(last.begin(), last.end());
      receivers.push_back(&s);
    }
    first += s.input.size();
  }
  const StepResult guesses = model_.draft(drafts);
  for (std::size_t i = 0; i < receivers.size(); ++i)
    receivers[i]->guess = most_likely(guesses.row(static_cast<int>(i)));
}

}  // namespace supernode::moe
