// supernode generate: continues a prompt, or computes the logits of given tokens.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <exception>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "launch/commands.hpp"
#include "moe/model_options.hpp"
#include "moe/sampler.hpp"
#include "moe/speculative.hpp"
#include "moe/text/tokenizer.hpp"
#include "moe/token_file.hpp"
#include "runtime/core/clock.hpp"
#include "runtime/core/error.hpp"
#include "runtime/core/mpi/agreement.hpp"
#include "runtime/core/new_file.hpp"

namespace supernode::launch {
namespace {

using Tokens = std::vector<std::int32_t>;

/// What both modes report; complete on rank 0.
struct Outcome {
  Tokens tokens;
  std::string text;
  std::size_t prompt_tokens = 0;
  double ttft_ms = 0, tpot_ms = 0;
  moe::SpeculativeDecoder::Counts guesses;
  bool guessing = false;  ///< at the end
};

class GenerateCommand : public Command {
 public:
  GenerateCommand() {
    // For the shipped model's guesses more gains next to nothing: see moe/README.md.
    model_.draft_experts = 2;
    model_.draft_window = 64;
  }

  void describe(OptionTable& table) override {
    const std::string section = "generate";
    moe::describe(table, section, model_);
    table.add(section, "prompt", prompt_, "text to continue");
    table.add(section, "prompt_tokens", prompt_tokens_, "token ids to continue");
    table.add(section, "max_tokens", max_tokens_, "tokens to generate").range(1, 1 << 28);
    table.add(section, "temperature", sampler_.temperature, "0: always the likeliest token").range(0, 100);
    table.add(section, "top_p", sampler_.top_p, "draw from the likeliest tokens with this probability in all")
        .range(1e-6, 1);
    table.add(section, "seed", sampler_.seed, "of the draws");
    table.add(section, "stream", stream_, "print the text as it comes");
    table
        .add(section, "mtp", mtp_,
             "guess tokens with the model's MTP module and verify them, which changes none of them; auto: if it has "
             "one, and for as long as tokens come faster so (both ways are timed while it decodes)")
        .choices({"auto", "on", "off"});
    table
        .add(section, "mtp_experts", model_.draft_experts,
             "routed experts that a guess uses for a token, the best first; 0: as many as the model")
        .range(0, 1 << 20);
    table.add(section, "mtp_window", model_.draft_window, "latest tokens that a guess attends to, at least; 0: all")
        .range(0, 1 << 28);
    table.add(section, "tokens_file", tokens_file_,
              "safetensors file with tokens [batch, length]: compute their logits instead of generating");
    table.add(section, "prefill", prefill_, "of the tokens file, positions taken at once; the rest one by one; 0: all")
        .range(0, 1 << 28);
    table.add(section, "logits_out", logits_out_,
              "new safetensors file for the logits [batch, length, vocab] of the tokens file");
  }

  int run(const Context& context) override {
    const Communicator& world = *context.world;
    check_options(*context.options);
    const moe::TokenTable table = tokens_file_.empty()
                                      ? moe::TokenTable{}
                                      : collectively(world, [&] { return moe::read_token_table(tokens_file_); });
    collectively(world, [&] {
      if (world.rank() == 0 && !logits_out_.empty()) check_new_file(logits_out_, context.run.if_exists());
    });
    // One sequence: a token a step, apart from the prompt.
    if (tokens_file_.empty()) model_.typical_tokens = 1;
    const bool guesses = tokens_file_.empty() && mtp_ != "off";
    moe::Transformer model =
        moe::load_model(model_, context.run.deadline, world, guesses ? moe::MtpUse::loaded : moe::MtpUse::left_out);
    if (mtp_ == "on" && !model.can_draft())
      throw UsageError(fmt::format("--mtp: the model '{}' has no MTP module", model_.model));
    const Outcome outcome =
        tokens_file_.empty() ? continue_prompt(context, model) : force_tokens(context, model, table);

    const Json results{{"tokens", outcome.tokens},
                       {"text", outcome.text},
                       {"prompt_tokens", outcome.prompt_tokens},
                       {"guessed", outcome.guesses.guessed},
                       {"guessing_at_end", outcome.guessing},
                       {"acceptance", outcome.guesses.guessed > 0 ? Json(outcome.guesses.rate()) : Json()},
                       {"ttft_ms", outcome.ttft_ms},
                       {"tpot_ms", outcome.tpot_ms}};
    report(context, "generate", results, printed(model, outcome));
    if (context.is_root()) {
      std::fprintf(stderr, "%zu prompt tokens, %zu new tokens; ttft %.2f ms, tpot %.3f ms\n", outcome.prompt_tokens,
                   outcome.tokens.size(), outcome.ttft_ms, outcome.tpot_ms);
      if (outcome.guesses.guessed > 0)
        std::fprintf(stderr, "mtp: %lld tokens guessed, %.1f %% accepted%s\n", outcome.guesses.guessed,
                     100 * outcome.guesses.rate(), outcome.guessing ? "" : "; then tokens came faster without guesses");
    }
    return static_cast<int>(ExitCode::good);
  }

 private:
  void check_options(const OptionTable& options) const {
    const bool text = options.given("generate", "prompt"), ids = options.given("generate", "prompt_tokens");
    const int given = (text ? 1 : 0) + (ids ? 1 : 0) + (tokens_file_.empty() ? 0 : 1);
    if (given != 1) throw UsageError("give one of --prompt, --prompt-tokens and --tokens-file");
    if (!tokens_file_.empty() && mtp_ == "on") throw UsageError("--mtp on: a tokens file is not continued");
    if (tokens_file_.empty() && !logits_out_.empty()) throw UsageError("--logits-out needs --tokens-file");
    if ((text && prompt_.empty()) || (ids && prompt_tokens_.empty()))
      throw UsageError(fmt::format("{}: the prompt is empty", text ? "--prompt" : "--prompt-tokens"));
  }

  /// What goes to stdout in text form.
  std::string printed(const moe::Transformer& model, const Outcome& outcome) const {
    if (!tokens_file_.empty()) return fmt::format("next token of each sequence: {}\n", fmt::join(outcome.tokens, ","));
    if (!moe::Tokenizer(model.config()).has_text()) return fmt::format("{}\n", fmt::join(outcome.tokens, ","));
    return stream_ ? "\n" : prompt_ + outcome.text + "\n";
  }

  /// All ranks hold the same tokens, so all of them refuse the same.
  static void check_tokens(const moe::Transformer& model, std::span<const std::int32_t> tokens) {
    moe::KvCache none = model.make_cache();
    moe::check_chunk(model.config(), none, {&none, tokens});
  }

  Outcome continue_prompt(const Context& context, moe::Transformer& model) {
    const moe::Tokenizer tokenizer(model.config());
    const Tokens tokens =
        prompt_tokens_.empty() ? tokenizer.encode(prompt_) : Tokens(prompt_tokens_.begin(), prompt_tokens_.end());
    const std::size_t prompt_length = tokens.size();
    check_tokens(model, tokens);
    if (prompt_length + static_cast<std::size_t>(max_tokens_) > static_cast<std::size_t>(model.config().max_positions))
      throw UsageError(
          fmt::format("--max-tokens: {} prompt tokens and {} new ones; the model holds {} "
                      "(max_position_embeddings)",
                      prompt_length, max_tokens_, model.config().max_positions));
    // The sequence lives on rank 0; the others lend their experts until it is done.
    double first = 0;
    const auto choose = [&](std::span<const float> logits, int, int position) {
      const std::int32_t token = moe::sample(logits, sampler_, 0, position);
      if (first == 0) first = wall_now().value;
      return token;
    };
    using Guessing = moe::SpeculativeDecoder::Guessing;
    moe::SpeculativeDecoder decoder(model, choose, mtp_ == "auto" ? Guessing::measured : Guessing::always);
    if (!context.is_root()) {
      while (decoder.step()) {
      }
      return {};
    }
    const moe::SpeculativeDecoder::Sequence& sequence = decoder.sequence(decoder.add(tokens, max_tokens_));
    const bool streaming = stream_ && context.run.format == "text" && tokenizer.has_text();
    if (streaming) std::fwrite(prompt_.data(), 1, prompt_.size(), stdout);

    const double start = wall_now().value;
    while (!sequence.finished) {
      const std::size_t before = sequence.tokens.size();
      decoder.step();
      if (!streaming) continue;
      for (const std::int32_t token : std::span(sequence.tokens).subspan(before))
        std::fputc(static_cast<unsigned char>(token), stdout);
      std::fflush(stdout);
    }
    const double end = wall_now().value;
    decoder.step();  // no tokens anywhere: releases the others
    Outcome outcome;
    outcome.tokens.assign(sequence.generated().begin(), sequence.generated().end());
    outcome.guesses = decoder.counts();
    outcome.guessing = decoder.guessing();
    outcome.text = tokenizer.decode(outcome.tokens);
    outcome.prompt_tokens = prompt_length;
    outcome.ttft_ms = (first - start) * 1e3;
    outcome.tpot_ms =
        outcome.tokens.size() > 1 ? (end - first) * 1e3 / static_cast<double>(outcome.tokens.size() - 1) : 0;
    return outcome;
  }

  /// Sequence i lives on rank i mod size. Steps: the first positions at once, the rest one by one.
  Outcome force_tokens(const Context& context, moe::Transformer& model, const moe::TokenTable& table) {
    const Communicator& world = *context.world;
    const auto size = static_cast<std::size_t>(world.size()), rank = static_cast<std::size_t>(world.rank());
    const std::size_t vocab = static_cast<std::size_t>(model.config().vocab_size), n = table.length;
    const std::size_t prefill = prefill_ == 0 ? n : static_cast<std::size_t>(prefill_);
    if (prefill > n) throw UsageError(fmt::format("--prefill: {} positions, but sequences have {}", prefill, n));

    for (std::size_t i = 0; i < table.batch; ++i) check_tokens(model, table.sequence(i));
    std::vector<std::size_t> mine;
    for (std::size_t i = rank; i < table.batch; i += size) mine.push_back(i);
    std::vector<moe::KvCache> caches;
    for (std::size_t i = 0; i < mine.size(); ++i) caches.push_back(model.make_cache());
    std::vector<std::vector<float>> logits(mine.size(), std::vector<float>(n * vocab));
    std::vector<moe::SequenceChunk> chunks;
    std::exception_ptr failure;  // the first of this rank, said when all have computed their sequences
    const auto check_row = [&](std::span<const float> row, std::size_t sequence, std::size_t position) {
      if (failure || moe::all_finite(row)) return;
      failure = std::make_exception_ptr(CheckError(
          fmt::format("sequence {}: {}", sequence, moe::not_finite(row, static_cast<int>(position) + 1).what())));
    };
    const auto step = [&](std::size_t first, std::size_t count) {
      chunks.clear();
      for (std::size_t i = 0; i < mine.size(); ++i)
        chunks.push_back(
            {.cache = &caches[i], .tokens = table.sequence(mine[i]).subspan(first, count), .all_logits = true});
      const moe::StepResult result = model.forward(chunks);
      for (std::size_t i = 0; i < mine.size(); ++i) {
        const auto rows = result.logits.subspan(i * count * vocab, count * vocab);
        for (std::size_t p = 0; p < count; ++p) check_row(rows.subspan(p * vocab, vocab), mine[i], first + p);
        std::copy(rows.begin(), rows.end(), logits[i].begin() + static_cast<std::ptrdiff_t>(first * vocab));
      }
    };
    const double start = wall_now().value;
    step(0, prefill);
    const double first = wall_now().value;
    for (std::size_t position = prefill; position < n; ++position) step(position, 1);
    const double end = wall_now().value;

    agree(world, failure);
    const std::vector<float> all = gather_logits(world, table, logits, vocab);
    Outcome outcome;
    if (!context.is_root()) {
      collectively(world, [] {});
      return outcome;
    }
    for (std::size_t i = 0; i < table.batch; ++i)
      outcome.tokens.push_back(moe::most_likely(std::span(all).subspan((i * n + n - 1) * vocab, vocab)));
    outcome.prompt_tokens = table.values.size();
    outcome.ttft_ms = (first - start) * 1e3;
    outcome.tpot_ms = n > prefill ? (end - first) * 1e3 / static_cast<double>(n - prefill) : 0;
    collectively(world, [&] {
      if (!logits_out_.empty()) moe::write_logits(logits_out_, table, vocab, all, context.run.if_exists());
    });
    return outcome;
  }

  /// [batch, length, vocab] on rank 0. A round a sequence of each rank, so that no message grows with the batch.
  static std::vector<float> gather_logits(const Communicator& world, const moe::TokenTable& table,
                                          const std::vector<std::vector<float>>& mine, std::size_t vocab) {
    const auto size = static_cast<std::size_t>(world.size());
    const std::size_t values = table.length * vocab;
    std::vector<float> all(world.rank() == 0 ? table.batch * values : 0);
    for (std::size_t round = 0; round * size < table.batch; ++round) {
      const std::string packed =
          round < mine.size() ? std::string(reinterpret_cast<const char*>(mine[round].data()), values * sizeof(float))
                              : "";
      const std::vector<std::string> texts = world.gather(packed);
      for (std::size_t rank = 0; rank < texts.size(); ++rank)
        if (!texts[rank].empty())
          std::memcpy(all.data() + (round * size + rank) * values, texts[rank].data(), texts[rank].size());
    }
    return all;
  }

  moe::ModelOptions model_;
  moe::SamplerOptions sampler_;
  std::string mtp_ = "auto", prompt_, tokens_file_, logits_out_;
  std::vector<int> prompt_tokens_;
  int max_tokens_ = 200, prefill_ = 0;
  bool stream_ = false;
};

}  // namespace

std::unique_ptr<Command> make_generate() { return std::make_unique<GenerateCommand>(); }

}  // namespace supernode::launch
