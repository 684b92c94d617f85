// The whole model on 1 to 8 ranks against figures of an independent implementation, and against itself.
#include <cmath>
#include <filesystem>
#include <limits>

#include "collectives/algorithms.hpp"
#include "collectives/token_exchange.hpp"
#include "moe/checkpoint/safetensors.hpp"
#include "moe/sampler.hpp"
#include "moe/text/tokenizer.hpp"
#include "moe/transformer.hpp"
#include "runtime/core/config_path.hpp"
#include "runtime/core/error.hpp"
#include "tests/moe/forced.hpp"
#include "tests/support/mpi_fixture.hpp"
#include "tests/support/shared_folder.hpp"

namespace supernode::moe {
namespace {
using test::force;
using test::Forced;
using test::Golden;
using test::max_difference;
using test::options_with;
using test::world;

constexpr double golden_tolerance = 2e-5;

}  // namespace

TEST_CASE("logits equal the reference's, by every exchange algorithm with the same bits") {
  for (const char* name : {"tiny", "yarn"}) {
    const Golden golden(name);
    std::vector<std::vector<float>> first;
    for (const collectives::AlgorithmName& algorithm : collectives::algorithms()) {
      INFO(name << ", " << algorithm.name);
      Transformer model(golden.directory(), options_with(std::string(algorithm.name)), world());
      const Forced forced = force(model, golden);
      CHECK(forced.worst_against_golden() < golden_tolerance);
      if (first.empty()) first = forced.logits;
      CHECK(forced.logits == first);
    }
  }
}

TEST_CASE("layers and gates equal the reference's") {
  for (const char* name : {"tiny", "yarn"}) {
    const Golden golden(name);
    Transformer model(golden.directory(), options_with("auto"), world());
    Forced forced(model, golden, world().rank(), world().size());
    int layers = 0;
    model.set_observer([&](const LayerTrace& trace) {
      const std::string prefix = "layers." + std::to_string(trace.layer);
      const std::vector<float> out = golden.values(prefix + ".out");
      const std::size_t width = Golden::prefill * Golden::hidden;
      for (std::size_t i = 0; i < forced.sequences.size(); ++i)
        CHECK(max_difference(trace.output.subspan(i * width, width),
                             std::span(out).subspan(forced.sequences[i] * width, width)) < golden_tolerance);
      ++layers;
      if (trace.expert_ids.empty()) {
        CHECK(trace.layer == 0);
        return;
      }
      const std::vector<std::int32_t> ids = golden.integers(prefix + ".gate.indices");
      const std::vector<float> weights = golden.values(prefix + ".gate.weights");
      for (std::size_t r = 0; r < static_cast<std::size_t>(trace.rows); ++r) {
        const std::size_t row = forced.sequences[r / Golden::prefill] * Golden::prefill + r % Golden::prefill;
        // The reference lists the chosen experts in no order.
        std::map<std::int32_t, float> expected, mine;
        for (std::size_t k = 0; k < Golden::topk; ++k) {
          expected[ids[row * Golden::topk + k]] = weights[row * Golden::topk + k];
          mine[trace.expert_ids[r * Golden::topk + k]] = trace.expert_weights[r * Golden::topk + k];
        }
        for (const auto& [expert, weight] : expected) CHECK(mine[expert] == Approx(weight).epsilon(1e-5));
        CHECK(mine.size() == Golden::topk);
      }
    });
    forced.step(Golden::prefill);
    CHECK(layers == (forced.sequences.empty() ? 0 : 4));
    model.set_observer({});
  }
}

TEST_CASE("many ranks give what one rank gives") {
  const Golden golden("tiny");
  const Communicator alone = world().split(world().rank(), 0);
  Transformer model(golden.directory(), options_with("auto"), world());
  Transformer single(golden.directory(), options_with("auto"), alone);
  const Forced together = force(model, golden);
  Forced by_itself(single, golden, world().rank(), world().size());
  by_itself.step(Golden::prefill);
  by_itself.until(Golden::length, 1);
  for (std::size_t i = 0; i < together.sequences.size(); ++i)
    CHECK(max_difference(together.logits[i], by_itself.logits[i]) < 1e-5);
  // And the same run again gives the same bits.
  CHECK(force(model, golden).logits == together.logits);
}

TEST_CASE("chunked prefill at every size, slices and both ways of attention give the same logits") {
  const Golden golden("yarn");
  Transformer model(golden.directory(), options_with("auto"), world());
  const Forced whole = force(model, golden, Golden::length);
  for (std::size_t chunk = 1; chunk < Golden::length; ++chunk) {
    const Forced pieces = force(model, golden, chunk, chunk);
    for (std::size_t i = 0; i < whole.sequences.size(); ++i)
      CHECK(max_difference(pieces.logits[i], whole.logits[i]) < 1e-5);
  }
  for (const AttentionPath path : {AttentionPath::plain, AttentionPath::absorbed}) {
    TransformerOptions options = options_with("auto");
    options.attention = path;
    options.max_batch_tokens = 7;  // sequences are cut in odd places
    Transformer other(golden.directory(), options, world());
    const Forced pieces = force(other, golden, 13, 3);
    for (std::size_t i = 0; i < whole.sequences.size(); ++i)
      CHECK(max_difference(pieces.logits[i], whole.logits[i]) < 1e-5);
  }
}

TEST_CASE("a sequence's logits do not depend on the other sequences in the step") {
  const Golden golden("tiny");
  const Communicator alone = world().split(world().rank(), 0);
  Transformer model(golden.directory(), options_with("auto"), alone);
  Forced all(model, golden, 0, 1);
  all.step(Golden::prefill);
  all.until(Golden::length, 1);
  for (int i = 0; i < static_cast<int>(Golden::batch); ++i) {
    Forced one(model, golden, i, Golden::batch);
    one.step(Golden::prefill);
    one.until(Golden::length, 1);
    CHECK(one.logits[0] == all.logits[static_cast<std::size_t>(i)]);
  }
}

TEST_CASE("a cache handed over as bytes continues with the same bits") {
  const Golden golden("tiny");
  Transformer model(golden.directory(), options_with("auto"), world());
  Forced forced(model, golden, world().rank(), world().size());
  forced.step(Golden::prefill);
  std::vector<KvCache> copies;
  for (const KvCache& cache : forced.caches) {
    KvCache copy = model.make_cache();
    for (int first = 0; first < cache.length(); first += 5) {
      const int count = std::min(5, cache.length() - first);
      std::vector<std::byte> bytes(static_cast<std::size_t>(count) * cache.bytes_per_token());
      cache.export_tokens(first, count, bytes);
      copy.import_tokens(first, count, bytes);
    }
    copies.push_back(std::move(copy));
  }
  forced.until(Golden::length, 1);
  const auto expected = forced.logits;
  Forced resumed(model, golden, world().rank(), world().size());
  resumed.step(Golden::prefill);
  std::swap(resumed.caches, copies);
  resumed.until(Golden::length, 1);
  CHECK(resumed.logits == expected);
}

TEST_CASE("a plan of the exchange is what the model allocates") {
  const Golden golden("tiny");
  for (const ComputeType type : {ComputeType::f32, ComputeType::bf16, ComputeType::int8}) {
    for (const collectives::AlgorithmName& algorithm : collectives::algorithms()) {
      INFO(name_of(type) << ", " << algorithm.name);
      TransformerOptions options = options_with(std::string(algorithm.name));
      options.type = type;
      options.max_batch_tokens = 24;
      const Transformer model(golden.directory(), options, world());
      const collectives::ExchangeConfig planned = exchange_config(model.config(), options);
      // The plan is that of the rank with the most experts.
      CHECK(static_cast<long long>(collectives::exchange_buffer_bytes(planned, world().size())) ==
            world().max(static_cast<long long>(model.exchange_bytes())));
      CHECK(kv_bytes_per_token(model.config()) == model.make_cache().bytes_per_token());
    }
  }
}

TEST_CASE("logits that are no numbers end a step of all ranks, on the rank that says so") {
  const Golden golden("tiny");
  Transformer model(golden.directory(), options_with("auto"), world());
  const std::vector<float> fine(100, -3.5f);
  CHECK(all_finite(fine));
  CHECK(all_finite(std::span<const float>()));
  for (const std::size_t place : {0u, 7u, 63u, 99u})
    for (const float odd :
         {std::nanf(""), std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity()}) {
      std::vector<float> row = fine;
      row[place] = odd;
      CHECK_FALSE(all_finite(row));
      CHECK_THAT(not_finite(row, 12).what(),
                 Catch::StartsWith("position 12: 1 of 100 logits are not finite (token " + std::to_string(place)));
    }
  const bool mine = world().rank() == world().size() - 1;
  const auto end = [&] {
    if (mine) model.abandon(std::make_exception_ptr(not_finite(std::vector<float>(2, std::nanf("")), 5)));
    model.forward({});
  };
  CHECK_THROWS_AS(end(), AgreedError);
  CHECK_THROWS_WITH(end(), Catch::Contains("position 5: 2 of 2 logits are not finite"));
  CHECK(force(model, golden).worst_against_golden() < golden_tolerance);
}

TEST_CASE("a truncated cache forgets: the next tokens are computed anew") {
  const Golden golden("tiny");
  Transformer model(golden.directory(), options_with("auto"), world());
  Forced forced(model, golden, world().rank(), world().size());
  forced.step(Golden::prefill);
  std::vector<SequenceChunk> wrong;
  const std::vector<std::int32_t> noise{1, 2, 3};
  for (KvCache& cache : forced.caches) wrong.push_back({&cache, noise});
  model.forward(wrong);
  for (KvCache& cache : forced.caches) cache.truncate(static_cast<int>(Golden::prefill));
  forced.until(Golden::length, 1);
  CHECK(forced.worst_against_golden() < golden_tolerance);
}

TEST_CASE("statistics, idle steps and ranks without sequences") {
  const Golden golden("tiny");
  TransformerOptions options = options_with("auto");
  options.max_batch_tokens = 8;
  Transformer model(golden.directory(), options, world());
  CHECK(model.forward({}).idle);
  KvCache cache = model.make_cache();
  const SequenceChunk chunk{&cache, golden.tokens(0), false};
  const bool mine = world().rank() == world().size() - 1;
  const StepResult result = model.forward({&chunk, mine ? 1u : 0u});
  CHECK_FALSE(result.idle);
  CHECK(result.n_rows == (mine ? 1 : 0));
  CHECK(model.last_step().slices == 3);
  CHECK(model.last_step().tokens == (mine ? 20 : 0));
  CHECK(model.last_step().total() > 0);
  if (mine) CHECK(max_difference(result.row(0), golden.logits(0, 19)) < golden_tolerance);
}

TEST_CASE("wrong chunks of one rank are refused on all, and the model goes on") {
  const Golden golden("tiny");
  Transformer model(golden.directory(), options_with("auto"), world());
  const bool mine = world().rank() == 0;
  KvCache cache = model.make_cache();
  const std::vector<std::int32_t> outside{1, 256}, negative{-1}, longer(65, 0);
  const auto refused = [&](std::span<const std::int32_t> tokens, const std::string& message) {
    const SequenceChunk chunk{&cache, tokens};
    CHECK_THROWS_AS(model.forward({&chunk, mine ? 1u : 0u}), AgreedError);
    CHECK_THROWS_WITH(model.forward({&chunk, mine ? 1u : 0u}), Catch::Contains(message));
  };
  refused(outside, "token 256 is outside the vocabulary of 256");
  refused(negative, "token -1 is outside");
  refused(longer, "65 tokens; the model holds 64");
  refused({}, "the prompt is empty");
  KvCache small = model.make_draft_cache(), foreign(model.config().n_layers, model.config().kv_width() + 1);
  for (KvCache* const wrong : {&small, &foreign, static_cast<KvCache*>(nullptr)}) {
    const SequenceChunk chunk{wrong, golden.tokens(0)};
    CHECK_THROWS_WITH(model.forward({&chunk, mine ? 1u : 0u}), Catch::Contains("cache is not of this model"));
  }
  const SequenceChunk twice[] = {{&cache, golden.tokens(0)}, {&cache, golden.tokens(0)}};
  CHECK_THROWS_WITH(model.forward({twice, mine ? 2u : 0u}), Catch::Contains("used twice"));
  CHECK(cache.length() == 0);
  CHECK(force(model, golden).worst_against_golden() < golden_tolerance);
}

TEST_CASE("a bad checkpoint or option is refused on all ranks") {
  const Golden golden("tiny");
  CHECK_THROWS_WITH(Transformer("/no/such/model", {}, world()), Catch::Contains("no such folder"));
  TransformerOptions options;
  options.max_batch_tokens = 0;
  CHECK_THROWS_WITH(Transformer(golden.directory(), options, world()), Catch::Contains("max_batch_tokens"));
  options = options_with("telepathy");
  CHECK_THROWS_WITH(Transformer(golden.directory(), options, world()), Catch::Contains("telepathy"));

  // An expert that only one rank reads is missing: all ranks hear of it.
  const test::SharedFolder folder("moe-model-test");
  if (world().rank() == 0) {
    std::filesystem::copy(golden.directory() + "/config.json", folder.path());
    const SafetensorsFile whole(golden.directory() + "/model.safetensors");
    std::vector<TensorToWrite> kept;
    for (const auto& [name, view] : whole.tensors())
      if (name != "model.layers.2.mlp.experts.15.up_proj.weight")
        kept.push_back({name, view.type, view.shape, view.bytes});
    write_safetensors(folder / "model.safetensors", kept);
  }
  world().barrier();
  CHECK_THROWS_WITH(Transformer(folder.path(), options_with("auto"), world()),
                    Catch::Contains("model.safetensors: no tensor 'model.layers.2.mlp.experts.15.up_proj.weight'"));
}

TEST_CASE("the model that is shipped continues a prompt as the reference does") {
  // 200 bytes of greedy continuation by the reference implementation, in f32 on the BF16 weights.
  const std::string prompt = "ROMEO:\n";
  const std::string expected =
      "I will not speak the sea of the sea of the sea\nThat we have shown the sea of the seatest straight.\n\n"
      "KING RICHARD III:\nThe senators are the state of the streets,\nAnd then the sea of the sea of the sea,";
  Transformer model(find_model(default_model), options_with("auto"), world());
  const Tokenizer tokenizer(model.config());
  if (world().rank() != 0) {
    while (!model.forward({}).idle) {
    }
  } else {
    std::vector<std::int32_t> tokens = tokenizer.encode(prompt);
    KvCache cache = model.make_cache();
    std::size_t fed = 0;
    while (tokens.size() < prompt.size() + expected.size()) {
      const SequenceChunk chunk{&cache, std::span<const std::int32_t>(tokens).subspan(fed)};
      const StepResult step = model.forward({&chunk, 1});
      fed = tokens.size();
      tokens.push_back(most_likely(step.row(0)));
    }
    model.forward({});
    CHECK(tokenizer.decode(tokens) == prompt + expected);
  }
}

}  // namespace supernode::moe
