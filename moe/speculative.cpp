#include "moe/speculative.hpp"

#include <utility>

#include "moe/sampler.hpp"

namespace supernode::moe {

SpeculativeDecoder::SpeculativeDecoder(Transformer& model, Choose choose) : model_(model), choose_(std::move(choose)) {}

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
  std::vector<SequenceChunk> chunks;
  for (std::size_t i = 0; i < sequences_.size(); ++i) {
    Sequence& s = sequences_[i];
    if (s.finished) continue;
    s.input.assign(s.tokens.begin() + s.cache.length(), s.tokens.end());
    if (s.guess) s.input.push_back(*s.guess);
    active_.push_back(static_cast<int>(i));
    chunks.push_back({&s.cache, s.input, s.guess.has_value()});
  }
  const StepResult result = model_.forward(chunks);
  if (result.idle) return false;
  std::vector<std::size_t> verified;
  int row = 0;
  for (const int index : active_) {
    const int rows = sequences_[static_cast<std::size_t>(index)].guess ? 2 : 1;
    verified.push_back(verify(index, result, row));
    row += rows;
  }
  if (model_.can_draft()) propose(result, verified);
  return true;
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
    s.guess.reset();
    // A guess for the last token of all would save nothing.
    if (!s.finished && s.tokens.size() + 1 < s.limit) {
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
