#include "moe/speculative.hpp"

#include <algorithm>
#include <utility>

#include "moe/model/guess_trial.hpp"
#include "moe/sampler.hpp"
#include "runtime/core/clock.hpp"

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
  sequence.cache = model_.make_cache();
  sequence.cache.reserve(static_cast<int>(sequence.limit));
  if (model_.can_draft()) {
    sequence.draft_cache = model_.make_draft_cache();
    sequence.draft_cache.reserve(static_cast<int>(sequence.limit));
  }
  sequences_.push_back(std::move(sequence));
  return static_cast<int>(sequences_.size()) - 1;
}

bool SpeculativeDecoder::step() {
  active_.clear();
  for (std::size_t i = 0; i < sequences_.size(); ++i)
    if (!sequences_[i].finished) active_.push_back(static_cast<int>(i));
  const bool timed = guessing_ == Guessing::measured && guessing() && all_have_guesses();
  const bool used = !timed || trial_->use_guesses();
  std::vector<SequenceChunk> chunks;
  for (const int index : active_) {
    Sequence& s = sequences_[static_cast<std::size_t>(index)];
    if (!used) s.guess.reset();
    s.input.assign(s.tokens.begin() + s.cache.length(), s.tokens.end());
    if (s.guess) s.input.push_back(*s.guess);
    chunks.push_back({&s.cache, s.input, s.guess.has_value()});
  }
  const double start = timed ? wall_now().value : 0;
  const StepResult result = model_.forward(chunks, guessing() && !chunks.empty());
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
  const std::int32_t token = choose_(result.row(first_row), index, static_cast<int>(s.tokens.size()));
  append(s, token);
  if (!s.guess) return s.input.size();
  ++counts_.guessed;
  if (token == *s.guess && !s.finished) {
    ++counts_.kept;
    append(s, choose_(result.row(first_row + 1), index, static_cast<int>(s.tokens.size())));
    return s.input.size();
  }
  s.cache.truncate(s.cache.length() - 1);
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
    if (guessing() && !s.finished && s.tokens.size() + 1 < s.limit) {
      const auto start = static_cast<std::size_t>(s.draft_cache.length());
      drafts.push_back({&s.draft_cache, result.hidden.subspan(first * width, verified[i] * width),
                        std::span(s.tokens).subspan(start + 1, verified[i])});
      receivers.push_back(&s);
    }
    first += s.input.size();
  }
  const StepResult guesses = model_.draft(drafts);
  for (std::size_t i = 0; i < receivers.size(); ++i)
    receivers[i]->guess = most_likely(guesses.row(static_cast<int>(i)));
}

}  // namespace supernode::moe
