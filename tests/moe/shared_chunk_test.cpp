// Chunks that all ranks share: each computes a part of the tokens, attention goes by head, and the results are those of
// one rank.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <numeric>

#include "moe/operators/attention.hpp"
#include "moe/transformer.hpp"
#include "runtime/core/config_path.hpp"
#include "runtime/core/error.hpp"
#include "tests/support/mpi_fixture.hpp"

using namespace supernode;
using namespace supernode::test;

namespace supernode::moe {
namespace {

std::vector<std::int32_t> some_tokens(int count, int seed) {
  std::vector<std::int32_t> tokens;
  for (int i = 0; i < count; ++i) tokens.push_back(32 + (i * (7 + seed) + i / 11 + seed) % 90);
  return tokens;
}

/// Positions of a chunk that this rank computed, in the order of its rows.
std::vector<int> my_positions(const Transformer& model, int chunk) {
  std::vector<int> positions;
  std::vector<std::pair<int, int>> ranges;
  for (int m = 0; m < model.microbatches(); ++m)
    for (const ChunkPiece& piece : model.pieces(m))
      if (piece.chunk == chunk) ranges.emplace_back(piece.first, piece.count);
  std::sort(ranges.begin(), ranges.end());
  for (const auto& [first, count] : ranges)
    for (int i = 0; i < count; ++i) positions.push_back(first + i);
  return positions;
}

double largest_difference(std::span<const float> a, std::span<const float> b) {
  REQUIRE(a.size() == b.size());
  double largest = 0;
  for (std::size_t i = 0; i < a.size(); ++i) largest = std::max(largest, std::fabs(double{a[i]} - double{b[i]}));
  return largest;
}

/// Logits reach tens, where neighbouring numbers in f32 are 2e-6 apart.
double size_of(std::span<const float> logits) {
  double largest = 1;
  for (const float logit : logits) largest = std::max(largest, std::fabs(double{logit}));
  return largest;
}

struct Case {
  int tokens, cached, piece;  ///< of the prompt; of it computed before by each rank alone; that a step has of the rest
  int max_batch_tokens, microbatches;
};

}  // namespace

TEST_CASE("a prompt that ranks share has the logits, the cache and the module's cache of one rank") {
  const Case c = GENERATE(Case{150, 0, 150, 256, 1}, Case{150, 40, 110, 16, 1}, Case{150, 7, 61, 24, 2},
                          Case{270, 0, 270, 200, 2}, Case{9, 6, 1, 64, 1});
  CAPTURE(c.tokens, c.cached, c.piece, c.max_batch_tokens, c.microbatches);
  TransformerOptions options;
  options.max_batch_tokens = c.max_batch_tokens;
  options.microbatches = c.microbatches;
  options.mtp = true;
  const Communicator self = world().split(world().rank(), 0);
  Transformer alone(find_model(default_model), options, self), together(find_model(default_model), options, world());
  const std::vector<std::int32_t> prompt = some_tokens(c.tokens, 1);
  const auto vocabulary = static_cast<std::size_t>(alone.config().vocab_size);

  SequenceState expected = alone.make_state();
  const SequenceChunk whole{&expected.main, prompt, true};
  const StepResult reference = alone.forward({&whole, 1});
  expected.note_unseen(prompt, reference.hidden);
  alone.catch_up(expected);
  const std::vector<float> logits(reference.logits.begin(), reference.logits.end());

  SequenceState state = together.make_state();
  state.import_tokens(0, 0, {});
  // A step of a rank's own beside the shared one, of another length on each.
  const std::vector<std::int32_t> own = some_tokens(5 + 20 * world().rank(), 2 + world().rank());
  KvCache own_cache = together.make_cache();
  if (c.cached > 0) {
    std::vector<std::byte> bytes(expected.bytes(c.cached));
    expected.export_tokens(0, c.cached, bytes);
    state.import_tokens(0, c.cached, bytes);
    const auto width = static_cast<std::size_t>(expected.hidden_size);
    const auto end = reference.hidden.subspan((static_cast<std::size_t>(c.cached) - 1) * width, width);
    state.import_end(std::as_bytes(end));
    together.catch_up(state, prompt[static_cast<std::size_t>(c.cached)]);
  }
  double largest = 0;
  for (int first = c.cached, home = 0; first < c.tokens; first += c.piece, home = (home + 1) % world().size()) {
    const int count = std::min(c.piece, c.tokens - first);
    const auto tokens = std::span(prompt).subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count));
    std::vector<SequenceChunk> chunks;
    if (first == c.cached) chunks.push_back({&own_cache, own});
    chunks.push_back({&state.main, tokens, true, home});
    const StepResult step = together.forward(chunks);
    const std::vector<int> mine = my_positions(together, static_cast<int>(chunks.size()) - 1);
    const std::size_t own_rows = chunks.size() - 1;
    CHECK(step.n_rows == static_cast<int>(own_rows + mine.size()));
    if (world().rank() == home) {
      CHECK_FALSE(mine.empty());
      if (!mine.empty()) CHECK(mine.back() == count - 1);
    }
    for (std::size_t i = 0; i < mine.size(); ++i) {
      const auto at = static_cast<std::size_t>(first + mine[i]);
      largest = std::max(largest, largest_difference(step.row(static_cast<int>(own_rows + i)),
                                                     std::span(logits).subspan(at * vocabulary, vocabulary)));
    }
    const bool ends = first + count == c.tokens;
    std::vector<std::int32_t> follows(tokens.begin() + 1, tokens.end());
    follows.push_back(ends ? 0 : prompt[static_cast<std::size_t>(first + count)]);
    const std::size_t hidden_of_own = own_rows > 0 ? own.size() * static_cast<std::size_t>(state.hidden_size) : 0;
    together.catch_up_shared(state, follows, step.hidden.subspan(hidden_of_own), home,
                             ends ? Behind::unknown : Behind::known);
  }
  CHECK(largest < 1e-5 * size_of(logits));
  REQUIRE(state.length() == expected.length());
  const auto floats_of = [](const SequenceState& of) {
    std::vector<std::byte> bytes(of.bytes(of.length()));
    of.export_tokens(0, of.length(), bytes);
    std::vector<float> floats(bytes.size() / sizeof(float));
    std::memcpy(floats.data(), bytes.data(), bytes.size());
    return floats;
  };
  CHECK(largest_difference(floats_of(state), floats_of(expected)) < 1e-4);
}

/// Run by hand: mpirun -n 4 moe_shared_chunk_test "[long]"
TEST_CASE("a prompt of 4096 tokens that ranks share has the logits of one rank", "[.][long]") {
  TransformerOptions options;
  options.max_batch_tokens = 512;
  const Communicator self = world().split(world().rank(), 0);
  Transformer together(find_model(default_model), options, world());
  const std::vector<std::int32_t> prompt = some_tokens(4096, 1);
  KvCache cache = together.make_cache();
  const SequenceChunk shared{&cache, prompt, true, world().size() - 1};
  const StepResult step = together.forward({&shared, 1});
  const std::vector<float> mine(step.logits.begin(), step.logits.end());
  const std::vector<int> positions = my_positions(together, 0);

  // One rank cuts the prompt into other slices, and these may go another way through attention.
  for (const AttentionPath path : {AttentionPath::automatic, AttentionPath::plain}) {
    options.attention = path;
    Transformer alone(find_model(default_model), options, self);
    KvCache own = alone.make_cache();
    const SequenceChunk whole{&own, prompt, true};
    const StepResult reference = alone.forward({&whole, 1});
    const auto vocabulary = static_cast<std::size_t>(reference.vocab_size);
    double largest = 0;
    for (std::size_t i = 0; i < positions.size(); ++i)
      largest = std::max(largest, largest_difference(std::span(mine).subspan(i * vocabulary, vocabulary),
                                                     reference.row(positions[i])));
    const double size = size_of(reference.logits);
    std::printf("rank %d: %zu positions, largest difference of a logit %.3g (%.3g of the largest, %.3g)\n",
                world().rank(), positions.size(), largest, largest / size, size);
    CHECK(largest < 1e-5 * size);
  }
}

TEST_CASE("a chunk that not all ranks share alike is refused by all of them, and caches stay") {
  Transformer model(find_model(default_model), {.max_batch_tokens = 64}, world());
  KvCache cache = model.make_cache(), other = model.make_cache();
  const std::vector<std::int32_t> tokens = some_tokens(30, world().rank() == world().size() - 1 ? 1 : 0);
  const SequenceChunk mine{&cache, tokens, false, 0};
  if (world().size() > 1) {
    CHECK_THROWS_WITH(model.forward({&mine, 1}), Catch::Contains("do not share the same chunks"));
    CHECK(cache.length() == 0);
  }
  const SequenceChunk nowhere{&cache, tokens, false, world().size()};
  CHECK_THROWS_WITH(model.forward({&nowhere, 1}), Catch::Contains("a chunk's home"));
  const SequenceChunk behind[] = {{&cache, tokens, false, 0}, {&other, tokens}};
  CHECK_THROWS_WITH(model.forward(behind), Catch::Contains("come last in a step"));
}

TEST_CASE("heads and tokens are dealt out to ranks without a gap, the last token to the home") {
  for (int ranks = 1; ranks <= 7; ++ranks)
    for (int count = 0; count <= 20; ++count) {
      int heads = 0;
      for (int rank = 0; rank < ranks; ++rank) {
        CHECK(heads_of(count, ranks, rank).first == heads);
        heads += heads_of(count, ranks, rank).count;
      }
      CHECK(heads == count);
      for (int home = 0; home < ranks; ++home) {
        int tokens = 0;
        for (int i = 1; i <= ranks; ++i) {
          const TokenShare share = share_of(count, ranks, (home + i) % ranks, home);
          CHECK(share.first == tokens);
          tokens += share.count;
        }
        CHECK(tokens == count);
        if (count > 0) CHECK(share_of(count, ranks, home, home).count > 0);
      }
    }
}

}  // namespace supernode::moe
