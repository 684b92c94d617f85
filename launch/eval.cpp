// supernode eval: how well a model predicts a text.
#include <algorithm>
#include <cmath>
#include <exception>

#include <fmt/format.h>

#include "launch/commands.hpp"
#include "moe/model_options.hpp"
#include "moe/sampler.hpp"
#include "moe/text/tokenizer.hpp"
#include "runtime/core/error.hpp"
#include "runtime/core/mpi/agreement.hpp"

namespace supernode::launch {
namespace {

/// -log of the probability that `logits` give to `token`.
double surprise(std::span<const float> logits, std::int32_t token) {
  const double top = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) sum += std::exp(logit - top);
  return top + std::log(sum) - logits[static_cast<std::size_t>(token)];
}

class EvalCommand : public Command {
 public:
  void describe(OptionTable& table) override {
    moe::describe(table, "eval", model_);
    table.add("eval", "text", text_, "file to predict");
    table
        .add("eval", "window", window_,
             "tokens of a window; windows do not overlap, the first token of each is not scored, a short tail is "
             "dropped")
        .range(2, 1 << 24);
  }

  int run(const Context& context) override {
    const Communicator& world = *context.world;
    if (text_.empty()) throw UsageError("--text: give the file to predict");
    const std::string text = read_file_on_root(world, text_);
    moe::Transformer model = moe::load_model(model_, context.run.deadline, world);
    const std::vector<std::int32_t> tokens = moe::Tokenizer(model.config()).encode(text);
    if (window_ > model.config().max_positions)
      throw UsageError(fmt::format("--window: {} tokens; the model holds {} (max_position_embeddings)", window_,
                                   model.config().max_positions));
    const auto window = static_cast<std::size_t>(window_);
    const std::size_t n_windows = tokens.size() / window;
    if (n_windows == 0)
      throw UsageError(fmt::format("--text: {} has {} tokens, not one window of {}", text_, tokens.size(), window_));

    const double nats = world.sum(score(world, model, tokens, n_windows));
    const std::size_t scored = n_windows * (window - 1);
    const double mean = nats / static_cast<double>(scored);
    const Json results{{"tokens", scored}, {"nats_per_token", mean}, {"perplexity", std::exp(mean)}};
    report(context, "eval", results,
           fmt::format("tokens scored    {}\nnats per token   {:.6f}\nperplexity       {:.4f}\n", scored, mean,
                       std::exp(mean)));
    return static_cast<int>(ExitCode::good);
  }

 private:
  /// The sum over this rank's windows: w, w + size, ... As many at once as fit a slice.
  double score(const Communicator& world, moe::Transformer& model, std::span<const std::int32_t> tokens,
               std::size_t n_windows) const {
    const auto window = static_cast<std::size_t>(window_);
    std::vector<moe::KvCache> caches(static_cast<std::size_t>(std::max(1, model_.max_batch_tokens / window_)));
    std::vector<moe::SequenceChunk> chunks;
    std::size_t next = static_cast<std::size_t>(world.rank());
    double nats = 0;
    std::exception_ptr failure;  // the first of this rank
    while (true) {
      chunks.clear();
      for (moe::KvCache& cache : caches) {
        if (next >= n_windows) break;
        cache = model.make_cache();
        chunks.push_back({.cache = &cache, .tokens = tokens.subspan(next * window, window), .all_logits = true});
        next += static_cast<std::size_t>(world.size());
      }
      const moe::StepResult result = model.forward(chunks);
      if (result.idle) break;
      for (std::size_t c = 0; c < chunks.size(); ++c)
        for (std::size_t i = 0; i + 1 < window; ++i) {
          const auto row = result.row(static_cast<int>(c * window + i));
          if (!failure && !moe::all_finite(row)) failure = not_finite(row, tokens, chunks[c].tokens, i);
          nats += surprise(row, chunks[c].tokens[i + 1]);
        }
    }
    agree(world, failure);
    return nats;
  }

  /// @param window part of `tokens`; @param position in it
  static std::exception_ptr not_finite(std::span<const float> row, std::span<const std::int32_t> tokens,
                                       std::span<const std::int32_t> window, std::size_t position) {
    const auto number = static_cast<std::size_t>(window.data() - tokens.data()) / window.size();
    return std::make_exception_ptr(
        CheckError(fmt::format("window {}: {}", number, moe::not_finite(row, static_cast<int>(position) + 1).what())));
  }

  moe::ModelOptions model_;
  std::string text_;
  int window_ = 256;
};

}  // namespace

std::unique_ptr<Command> make_eval() { return std::make_unique<EvalCommand>(); }

}  // namespace supernode::launch
