#include "runtime/serving/workers/shape_engine.hpp"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <span>
#include <stdexcept>
#include <utility>

#include <fmt/format.h>

#include "runtime/core/error.hpp"
#include "runtime/core/random.hpp"
#include "runtime/serving/workers/computed_tokens.hpp"

namespace supernode::serving {
namespace {

/// Independent streams of one seed.
enum class Purpose : std::uint64_t { tokens = 16, guesses };  // 1 to 15 are the routing's

Random draw(std::uint64_t seed, Purpose purpose, RequestId request, int position) {
  const std::uint64_t stream = mix64(seed ^ mix64(static_cast<std::uint64_t>(purpose)));
  return Random(mix64(stream ^ mix64(request)), static_cast<std::uint64_t>(position));
}

/// The bytes of a token: words that differ by position and by place within the token, so that neither can be taken for
/// another. The last word may be cut.
class TokenPattern {
 public:
  explicit TokenPattern(int position) : first_(mix64(static_cast<std::uint64_t>(position))) {}

  void write(std::span<std::byte> out) const {
    std::uint64_t word = first_;
    std::size_t at = 0;
    for (; at + sizeof word <= out.size(); at += sizeof word, word += kStep)
      std::memcpy(out.data() + at, &word, sizeof word);
    const auto rest = out.subspan(at);
    std::ranges::copy(std::as_bytes(std::span(&word, 1)).first(rest.size()), rest.begin());
  }
  bool holds(std::span<const std::byte> bytes) const {
    std::uint64_t word = first_, difference = 0, there = 0;
    std::size_t at = 0;
    for (; at + sizeof word <= bytes.size(); at += sizeof word, word += kStep) {
      std::memcpy(&there, bytes.data() + at, sizeof there);
      difference |= there ^ word;
    }
    const auto rest = bytes.subspan(at);
    return difference == 0 && std::ranges::equal(rest, std::as_bytes(std::span(&word, 1)).first(rest.size()));
  }

 private:
  static constexpr std::uint64_t kStep = 0x9e3779b97f4a7c15;
  std::uint64_t first_;
};

[[noreturn]] void refuse_token(int position, std::span<const std::byte> bytes) {
  std::vector<std::byte> expected(bytes.size());
  TokenPattern(position).write(expected);
  const auto wrong = std::mismatch(bytes.begin(), bytes.end(), expected.begin());
  throw EnvironmentError(fmt::format("token {} came with a wrong byte: number {} of {} is {:#04x}, not {:#04x}",
                                     position, wrong.first - bytes.begin(), bytes.size(),
                                     std::to_integer<int>(*wrong.first), std::to_integer<int>(*wrong.second)));
}

class ShapeState : public EngineState {
 public:
  explicit ShapeState(std::size_t bytes_per_token) : bytes_per_token_(bytes_per_token) {}

  int length() const override { return length_; }
  void export_tokens(int first, int count, std::span<std::byte> out) const override {
    expect(first >= 0 && count >= 0 && first + count <= length_, "exported tokens are in the state");
    expect_size(count, out.size());
    for (int i = 0; i < count; ++i) TokenPattern(first + i).write(out.subspan(offset(i), bytes_per_token_));
  }
  void import_tokens(int first, int count, std::span<const std::byte> bytes) override {
    expect(first >= 0 && count >= 0 && first <= length_, "imported tokens leave a hole");
    expect_size(count, bytes.size());
    for (int i = 0; i < count; ++i) {
      const std::span<const std::byte> token = bytes.subspan(offset(i), bytes_per_token_);
      if (!TokenPattern(first + i).holds(token)) refuse_token(first + i, token);
    }
    length_ = std::max(length_, first + count);
  }
  void place_tokens(int count) override { length_ = std::max(length_, count); }
  bool can_export_end(int tokens) const override { return computed_.contains(tokens - 1); }
  void grow(int tokens) { length_ += tokens; }
  void note_computed(moe::TokenShare range) { computed_.add(range); }

 private:
  std::size_t offset(int token) const { return static_cast<std::size_t>(token) * bytes_per_token_; }
  void expect_size(int count, std::size_t bytes) const {
    expect(bytes == static_cast<std::size_t>(count) * bytes_per_token_, "bytes of a state are of as many tokens");
  }

  std::size_t bytes_per_token_;
  int length_ = 0;
  ComputedTokens computed_;
};

void check(bool holds, const std::string& what) {
  if (!holds) throw std::invalid_argument("shape engine: " + what);
}

}  // namespace

/// What one microbatch does of one work.
struct ShapeEngine::Part {
  RequestId request;
  int first, count;              ///< positions
  bool draws;                    ///< whether the work's token is drawn behind it
  std::optional<int> home = {};  ///< of a work that all dies share; then the positions are those of all of them

  /// Those of `die`.
  moe::TokenShare own(int dies, int die) const {
    if (!home) return {first, count};
    const moe::TokenShare share = moe::share_of(count, dies, die, *home);
    return {first + share.first, share.count};
  }
};

ShapeEngine::ShapeEngine(ShapeOptions options)
    : options_(std::move(options)),
      routing_(options_.model, options_.setup.layout, options_.load, options_.seed,
               options_.setup.record_layers(options_.model)) {
  check(options_.microbatches == 1 || options_.microbatches == 2,
        fmt::format("{} microbatches; there may be 1 or 2", options_.microbatches));
  check(options_.acceptance >= 0 && options_.acceptance <= 1,
        fmt::format("acceptance {} is outside [0, 1]", options_.acceptance));
  check(options_.vocabulary > 0, fmt::format("a vocabulary of {}", options_.vocabulary));
  check(options_.die >= 0 && options_.die < options_.setup.layout.dies,
        fmt::format("die {} of {}", options_.die, options_.setup.layout.dies));
}

std::unique_ptr<EngineState> ShapeEngine::make_state(int) {
  return std::make_unique<ShapeState>(options_.bytes_per_token);
}

std::int32_t ShapeEngine::token(RequestId request, int position) const {
  return static_cast<std::int32_t>(
      draw(options_.seed, Purpose::tokens, request, position).below(static_cast<std::uint64_t>(options_.vocabulary)));
}

bool ShapeEngine::guessed(RequestId request, int position) const {
  return draw(options_.seed, Purpose::guesses, request, position).uniform() < options_.acceptance;
}

/// Decode: in turns, so that the contexts of both microbatches are alike. Prefill: the new tokens of all works in a row
/// are cut in the middle, maybe within a work; those that all dies share each in its own middle.
std::vector<std::vector<ShapeEngine::Part>> ShapeEngine::split(std::span<const StepWork> works) const {
  const auto microbatches = static_cast<std::size_t>(options_.microbatches);
  std::vector<std::vector<Part>> parts(microbatches);
  std::vector<Part> whole;
  for (const StepWork& work : works)
    whole.push_back({work.request, work.state->length(), static_cast<int>(work.tokens.size()) + (speculates() ? 1 : 0),
                     work.draw == Draw::token, work.shared ? std::optional(work.shared->home) : std::nullopt});
  if (options_.setup.stage == emulation::Stage::decode) {
    for (std::size_t i = 0; i < whole.size(); ++i) parts[i % microbatches].push_back(whole[i]);
    return parts;
  }
  const auto first_half = [&](int tokens) { return microbatches == 1 ? tokens : (tokens + 1) / 2; };
  const int own = std::accumulate(whole.begin(), whole.end(), 0,
                                  [](int sum, const Part& p) { return p.home ? sum : sum + p.count; });
  int room = first_half(own);  // in the first microbatch
  for (const Part& part : whole) {
    const int here = part.home ? first_half(part.count) : std::min(room, part.count);
    if (here > 0)
      parts.front().push_back({part.request, part.first, here, part.draws && here == part.count, part.home});
    if (here < part.count)
      parts.back().push_back({part.request, part.first + here, part.count - here, part.draws, part.home});
    if (!part.home) room -= here;
  }
  return parts;
}

emulation::MicrobatchStep ShapeEngine::record(std::span<const Part> parts) const {
  emulation::MicrobatchStep step;
  std::vector<emulation::TokenRange> ranges;
  int tokens = 0;
  const int dies = options_.setup.layout.dies;
  for (const Part& part : parts) {
    emulation::AttentionWork work;
    work.add(part.count, part.first);
    // A prompt of which both microbatches have a part is one sequence: it has logits once, at its end. A piece of a
    // prompt that goes on in a later step has none.
    if (!part.draws) work.sequences = 0;
    const moe::TokenShare own = part.own(dies, options_.die);
    if (part.home) work = work.shared(dies, own.count, *part.home == options_.die ? work.sequences : 0);
    step.work += work;
    if (own.count > 0) ranges.push_back({part.request, own.first, own.count});
    tokens += own.count;
  }
  step.rows.resize(routing_.record_size());
  routing_.draw(ranges, step.rows);
  routing_.add_shared(options_.die, tokens, step.rows);
  return step;
}

StepOutcome ShapeEngine::step(std::span<const StepWork> works, RunTime) {
  StepOutcome outcome;
  outcome.record.emplace();
  const std::vector<std::vector<Part>> microbatches = split(works);
  for (const std::vector<Part>& parts : microbatches) outcome.record->microbatches.push_back(record(parts));
  for (const StepWork& work : works) {
    auto& state = static_cast<ShapeState&>(*work.state);
    if (work.shared)
      for (const std::vector<Part>& parts : microbatches)
        for (const Part& part : parts)
          if (part.request == work.request) state.note_computed(part.own(work.shared->dies, options_.die));
    state.grow(static_cast<int>(work.tokens.size()));
    outcome.tokens.push_back(work.draw == Draw::token ? SampledToken(token(work.request, state.length()))
                                                      : std::nullopt);
    if (!speculates()) continue;
    std::vector<std::int32_t>& further = outcome.further.emplace_back();
    ++guesses_.drafted;
    if (!guessed(work.request, state.length())) continue;
    ++guesses_.accepted;
    state.grow(1);
    further.push_back(token(work.request, state.length()));
  }
  return outcome;
}

}  // namespace supernode::serving
