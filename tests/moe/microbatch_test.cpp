// Steps in two microbatches give the bits of steps in one.
#include <numeric>

#include "collectives/algorithms.hpp"
#include "moe/transformer.hpp"
#include "runtime/core/config_path.hpp"
#include "tests/support/mpi_fixture.hpp"

namespace supernode::moe {
namespace {
using test::world;

TransformerOptions options_with(ComputeType type, int microbatches) {
  TransformerOptions options;
  options.type = type;
  options.microbatches = microbatches;
  options.max_batch_tokens = 200;
  options.deadline = 60;
  options.mtp = true;
  return options;
}

std::vector<std::int32_t> tokens_of(int sequence, int count) {
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(count));
  for (int i = 0; i < count; ++i) tokens[static_cast<std::size_t>(i)] = 32 + (i * 7 + 13 * sequence) % 90;
  return tokens;
}

/// This rank's sequences: three on the first, one on the others, none on the last of several.
std::vector<int> own_lengths() {
  const int rank = world().rank(), size = world().size();
  if (rank == 0) return {150, 3, 90};  // two slices, cut within a sequence
  if (rank == size - 1) return {};
  return {70 + rank};
}

/// All that a model says in prefill, decode, decode with a guess, and of guesses.
class Said {
 public:
  explicit Said(Transformer& model) : model_(model) {
    for (const int length : own_lengths()) states_.push_back({model.make_state(), length});
    for (const bool all_logits : {false, true}) {
      step(all_logits ? 66 : 0, all_logits);  // the prompts; then a longer piece behind what is cached
      for (const int tokens : {1, 1, 2, 1}) step(tokens, tokens == 2);
    }
  }

  std::vector<float> values;

 private:
  struct Sequence {
    SequenceState state;
    int prompt;
  };

  /// @param count tokens of each sequence; 0: its prompt
  void step(int count, bool all_logits) {
    std::vector<std::vector<std::int32_t>> inputs;
    std::vector<SequenceChunk> chunks;
    for (Sequence& sequence : states_)
      inputs.push_back(tokens_of(sequence.state.main.length() + sequence.prompt, count == 0 ? sequence.prompt : count));
    for (std::size_t i = 0; i < states_.size(); ++i) chunks.push_back({&states_[i].state.main, inputs[i], all_logits});
    const StepResult result = model_.forward(chunks, Guesses::wanted);
    const std::vector<float> hidden(result.hidden.begin(), result.hidden.end());
    keep(result.logits);
    keep(hidden);
    std::vector<DraftChunk> drafts;
    std::size_t first = 0;
    const auto width = static_cast<std::size_t>(model_.config().hidden_size);
    for (std::size_t i = 0; i < states_.size(); ++i) {
      drafts.push_back({&states_[i].state.draft, std::span(hidden).subspan(first * width, inputs[i].size() * width),
                        inputs[i], all_logits});
      first += inputs[i].size();
    }
    keep(model_.draft(drafts).logits);
  }

  void keep(std::span<const float> more) { values.insert(values.end(), more.begin(), more.end()); }

  Transformer& model_;
  std::vector<Sequence> states_;
};

}  // namespace

TEST_CASE("two microbatches give the bits of one, by every exchange algorithm, in every type") {
  for (const ComputeType type : {ComputeType::f32, ComputeType::bf16, ComputeType::int8}) {
    Transformer whole(find_model(default_model), options_with(type, 1), world());
    const Said expected(whole);
    for (const collectives::AlgorithmName& algorithm : collectives::algorithms()) {
      INFO(name_of(type) << ", " << algorithm.name);
      TransformerOptions options = options_with(type, 2);
      options.exchange = std::string(algorithm.name);
      Transformer halves(find_model(default_model), options, world());
      CHECK(Said(halves).values == expected.values);
    }
  }
}

TEST_CASE("two microbatches give the bits of one on both ways through attention, and with a window") {
  for (const AttentionPath path : {AttentionPath::plain, AttentionPath::absorbed}) {
    for (const int window : {0, 100}) {
      INFO(static_cast<int>(path) << ", window " << window);
      const auto said_with = [&](int microbatches) {
        TransformerOptions options = options_with(ComputeType::f32, microbatches);
        options.attention = path;
        options.draft_window = window;
        options.draft_experts = 2;
        Transformer model(find_model(default_model), options, world());
        return Said(model).values;
      };
      CHECK(said_with(2) == said_with(1));
    }
  }
}

TEST_CASE("slices of a few tokens have microbatches, too") {
  for (const int most : {1, 2, 3, 65}) {
    INFO(most << " tokens at once");
    const auto said_with = [&](int microbatches) {
      TransformerOptions options = options_with(ComputeType::f32, microbatches);
      options.max_batch_tokens = most;
      Transformer model(find_model(default_model), options, world());
      return Said(model).values;
    };
    CHECK(said_with(2) == said_with(1));
  }
}

TEST_CASE("both microbatches together have the tokens of the step and their rows to the experts") {
  const auto routed_with = [&](int microbatches) {
    Transformer model(find_model(default_model), options_with(ComputeType::f32, microbatches), world());
    model.record_routing(RoutingRecord::kept);
    std::vector<KvCache> caches;
    std::vector<std::vector<std::int32_t>> inputs;
    std::vector<SequenceChunk> chunks;
    const std::vector<int> lengths = own_lengths();
    for (const int length : lengths) {
      caches.push_back(model.make_cache());
      inputs.push_back(tokens_of(length, length));
    }
    for (std::size_t i = 0; i < lengths.size(); ++i) chunks.push_back({&caches[i], inputs[i]});
    model.forward(chunks);
    std::vector<std::int32_t> rows(model.routed_rows().size());
    std::vector<int> tokens(lengths.size());
    for (int m = 0; m < microbatches; ++m) {
      const std::span<const std::int32_t> mine = model.routed_rows(m);
      for (std::size_t i = 0; i < rows.size(); ++i) rows[i] += mine[i];
      int count = 0;
      for (const ChunkPiece& piece : model.pieces(m)) {
        tokens[static_cast<std::size_t>(piece.chunk)] += piece.count;
        count += piece.count;
      }
      const int layers = model.config().n_layers - model.config().first_dense_layers;
      CHECK(std::accumulate(mine.begin(), mine.end(), 0) == count * layers * model.config().topk);
      // Of 243 tokens the first slice has 200: 128 of the first sequence are the cut next to its middle. The last 43 have
      // a cut inside at position 64 of their sequence.
      if (microbatches == 2 && world().rank() == 0) CHECK(count == (m == 0 ? 128 + 17 : 72 + 26));
    }
    CHECK(tokens == lengths);
    return rows;
  };
  CHECK(routed_with(2) == routed_with(1));
}

TEST_CASE("a number of microbatches that there is not is refused") {
  CHECK_THROWS_WITH(Transformer(find_model(default_model), options_with(ComputeType::f32, 3), world()),
                    Catch::Contains("microbatches: 1 or 2"));
}

}  // namespace supernode::moe
