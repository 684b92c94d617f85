// The MTP module against the reference's figure, and decoding with its guesses against decoding without.
#include <filesystem>
#include <random>

#include "moe/checkpoint/safetensors.hpp"
#include "moe/model/guess_trial.hpp"
#include "moe/sampler.hpp"
#include "moe/speculative.hpp"
#include "moe/text/tokenizer.hpp"
#include "runtime/core/config_path.hpp"
#include "runtime/core/files.hpp"
#include "runtime/core/json.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/mpi_fixture.hpp"
#include "tests/support/shared_folder.hpp"

namespace supernode::moe {
namespace {
using test::world;

TransformerOptions options_with(bool mtp, ComputeType type = ComputeType::f32) {
  TransformerOptions options;
  options.type = type;
  options.max_batch_tokens = 64;
  options.deadline = 60;
  options.mtp = mtp;
  return options;
}

std::vector<std::int32_t> prompt(int index) {
  static const std::string texts[] = {"ROMEO:\n", "What light", "KING HENRY:\nMy lord, the", "I", "to be or not"};
  const std::string& text = texts[index % 5];
  return {text.begin(), text.end()};
}

struct Decoded {
  std::vector<std::vector<std::int32_t>> texts;
  SpeculativeDecoder::Counts counts;
};

/// `batch` sequences on each rank, of lengths that differ.
Decoded decode(Transformer& model, int batch, const SamplerOptions& sampler,
               SpeculativeDecoder::Guessing guessing = SpeculativeDecoder::Guessing::always, int tokens = 20) {
  const auto choose = [&](std::span<const float> logits, int sequence, int position) {
    return sample(logits, sampler, static_cast<std::uint64_t>(sequence), position);
  };
  SpeculativeDecoder decoder(model, choose, guessing);
  for (int i = 0; i < batch; ++i) decoder.add(prompt(i + world().rank()), tokens + 3 * i);
  while (decoder.step()) {
  }
  Decoded decoded;
  for (int i = 0; i < batch; ++i) decoded.texts.push_back(decoder.sequence(i).tokens);
  decoded.counts = decoder.counts();
  return decoded;
}

/// The shipped model, with other tensors, into `folder`. Collective.
/// @param add (name, view, tensors) appends what is written in the place of a tensor
template <class Add>
void write_changed_model(const test::SharedFolder& folder, Add&& add) {
  if (world().rank() == 0) {
    const std::string original = find_model(default_model);
    std::filesystem::copy(original + "/config.json", folder.path());
    const SafetensorsFile file(original + "/model.safetensors");
    std::vector<TensorToWrite> tensors;
    for (const auto& [name, view] : file.tensors()) add(name, view, tensors);
    write_safetensors(folder / "model.safetensors", tensors);
  }
  world().barrier();
}

/// The logits of a guess at position 64, always of the same token and hidden row, after 64 that depend on `history`.
std::vector<float> guess_after(Transformer& model, unsigned history) {
  constexpr std::size_t before = 64;
  const auto width = static_cast<std::size_t>(model.config().hidden_size);
  std::mt19937 random(history);
  std::vector<std::int32_t> tokens(before + 1, 'a');
  std::vector<float> hidden((before + 1) * width, 0.5f);
  for (std::size_t i = 0; i < before; ++i) tokens[i] = static_cast<std::int32_t>(random() % 256);
  for (std::size_t i = 0; i < before * width; ++i) hidden[i] = std::uniform_real_distribution<float>(-1, 1)(random);
  KvCache cache = model.make_cache(), draft_cache = model.make_draft_cache();
  const SequenceChunk chunk{&cache, tokens};
  model.forward({&chunk, 1}, Guesses::wanted);
  const DraftChunk past{&draft_cache, std::span(hidden).first(before * width), std::span(tokens).first(before)};
  model.draft({&past, 1});
  const DraftChunk last{&draft_cache, std::span(hidden).last(width), std::span(tokens).last(1)};
  const StepResult guess = model.draft({&last, 1});
  return {guess.row(0).begin(), guess.row(0).end()};
}

}  // namespace

TEST_CASE("guesses change no token, at any batch size, type and temperature") {
  for (const ComputeType type : {ComputeType::f32, ComputeType::bf16, ComputeType::int8}) {
    Transformer with(find_model(default_model), options_with(true, type), world());
    Transformer without(find_model(default_model), options_with(false, type), world());
    REQUIRE(with.can_draft());
    REQUIRE_FALSE(without.can_draft());
    for (const double temperature : {0.0, 0.7}) {
      const SamplerOptions sampler{temperature, 1, 5};
      for (const int batch : {1, 2, 5}) {
        INFO(name_of(type) << ", batch " << batch << ", temperature " << temperature);
        const Decoded plain = decode(without, batch, sampler), guessed = decode(with, batch, sampler);
        CHECK(plain.texts == guessed.texts);
        CHECK(plain.counts.guessed == 0);
        CHECK(guessed.counts.guessed > 0);
        if (temperature == 0) CHECK(guessed.counts.rate() > 0.3);
        // Each rank may stop guessing at its own time.
        CHECK(decode(with, batch, sampler, SpeculativeDecoder::Guessing::measured).texts == plain.texts);
      }
    }
  }
}

TEST_CASE("guesses that cost less change no token, and are kept about as often") {
  const auto over_ranks = [](const Decoded& decoded) {
    return static_cast<double>(world().sum(decoded.counts.kept)) /
           static_cast<double>(world().sum(decoded.counts.guessed));
  };
  for (const AttentionPath path : {AttentionPath::automatic, AttentionPath::absorbed}) {
    // Long enough for a window to move on.
    const auto decode_with = [&](TransformerOptions options) {
      options.attention = path;
      Transformer model(find_model(default_model), options, world());
      return decode(model, 2, {}, SpeculativeDecoder::Guessing::always, 80);
    };
    TransformerOptions light = options_with(true);
    light.draft_experts = 1;
    light.draft_window = 1;
    const Decoded plain = decode_with(options_with(false)), all = decode_with(options_with(true)),
                  cheap = decode_with(light);
    CHECK(plain.texts == all.texts);
    CHECK(plain.texts == cheap.texts);
    CHECK(over_ranks(cheap) > 0.8 * over_ranks(all));
  }
}

TEST_CASE("a guess looks back as far, and uses as many experts, as it is told") {
  for (const AttentionPath path : {AttentionPath::automatic, AttentionPath::absorbed, AttentionPath::plain}) {
    const auto guess = [&](int experts, int window, unsigned history) {
      TransformerOptions options = options_with(true);
      options.max_batch_tokens = 65;
      options.attention = path;
      options.draft_experts = experts;
      options.draft_window = window;
      Transformer model(find_model(default_model), options, world());
      return guess_after(model, history);
    };
    INFO("path " << static_cast<int>(path));
    const std::vector<float> all = guess(0, 0, 1);
    CHECK(guess(4, 65, 1) == all);
    CHECK(guess(0, 2, 1) == all);  // whole blocks of 64
    CHECK(guess(0, 2, 2) != all);
    CHECK(guess(1, 0, 1) != all);
    // Position 64 begins a block: it sees itself only.
    const std::vector<float> alone = guess(0, 1, 1);
    CHECK(alone != all);
    CHECK(guess(0, 1, 2) == alone);
  }
}

TEST_CASE("guessing goes on while it pays, and stops when it does not") {
  // Of 4 turns 3 use their guesses and give 1.8 tokens.
  const auto decide = [](double step, double verifying_step, double guess, int turns, double growth = 0) {
    GuessTrial trial;
    for (int turn = 0; turn < turns; ++turn) {
      const bool used = trial.use_guesses();
      // Now and then a turn is disturbed. Steps become slower as the context grows.
      const double factor = (turn % 10 == 0 ? 50 : 1) * (1 + growth * turn);
      trial.record(used, (used ? verifying_step : step) * factor, guess * factor, used && turn % 5 != 0 ? 2 : 1);
    }
    return trial.worthwhile();
  };
  const int whole = GuessTrial::warm_up + GuessTrial::trial_turns;
  CHECK(decide(1, 1.3, 0.2, whole));
  CHECK_FALSE(decide(1, 1.8, 0.4, whole));
  CHECK(decide(1, 1.8, 0.4, whole - 1));  // not decided yet
  CHECK_FALSE(decide(1, 1.8, 0.4, 10 * whole));
  CHECK(decide(1, 1.3, 0.2, 100 * whole));
  GuessTrial cold;  // its module's weights were never read before
  for (int turn = 0; turn < 2 * whole; ++turn) {
    const bool used = cold.use_guesses();
    cold.record(used, used ? 1.3 : 1, turn < GuessTrial::warm_up ? 5 : 0.2, used ? 2 : 1);
  }
  CHECK(cold.worthwhile());
  for (const double growth : {1e-4, 1e-3, 0.01}) {
    CHECK(decide(1, 1.4, 0.3, 100 * whole, growth));
    CHECK_FALSE(decide(1, 1.6, 0.4, 100 * whole, growth));
  }

  int unused = 0;
  GuessTrial trial;
  for (int turn = 0; turn < whole; ++turn) {
    unused += trial.use_guesses() ? 0 : 1;
    trial.record(trial.use_guesses(), 1, 0.1, 2);
  }
  CHECK(unused == GuessTrial::trial_turns / 4);
}

TEST_CASE("a module with an embedding and a head of its own") {
  const test::SharedFolder folder("moe-draft-test");
  write_changed_model(folder, [](const auto& name, const auto& view, auto& tensors) {
    tensors.push_back({name, view.type, view.shape, view.bytes});
    if (name == "model.embed_tokens.weight")
      tensors.push_back({"model.layers.4.embed_tokens.weight", view.type, view.shape, view.bytes});
    if (name == "lm_head.weight")
      tensors.push_back({"model.layers.4.shared_head.head.weight", view.type, view.shape, view.bytes});
  });
  Transformer shared(find_model(default_model), options_with(true), world()),
      own(folder.path(), options_with(true), world());
  const Decoded a = decode(shared, 2, {}), b = decode(own, 2, {});
  CHECK(a.texts == b.texts);
  CHECK(a.counts.kept == b.counts.kept);
}

TEST_CASE("a sequence goes on elsewhere with its whole state, and gives the same tokens") {
  Transformer model(find_model(default_model), options_with(true), world());
  const SamplerOptions sampler{0.7, 1, 5};
  const auto choose = [&](std::span<const float> logits, int, int position) {
    return sample(logits, sampler, 0, position);
  };
  SpeculativeDecoder whole(model, choose), first(model, choose), second(model, choose);
  const int at_once = whole.add(prompt(world().rank()), 30), begun = first.add(prompt(world().rank()), 30);
  while (whole.step()) {
  }
  for (int i = 0; i < 4; ++i) first.step();
  const std::vector<std::int32_t> tokens = first.sequence(begun).tokens;
  const SequenceState given = first.release(begun);
  CHECK(first.sequence(begun).finished);
  REQUIRE(given.has_draft());
  CHECK(given.length() == static_cast<int>(tokens.size()) - 1);
  CHECK(given.complete());
  SequenceState taken = model.make_state();
  CHECK(state_format(model.config(), DraftCache::included) != state_format(model.config(), DraftCache::none));
  CHECK(state_bytes_per_token(model.config(), DraftCache::included) == taken.bytes_per_token());
  CHECK(state_end_bytes(model.config(), DraftCache::included) == taken.end_bytes());
  std::vector<std::byte> bytes(given.bytes(given.length())), end(given.end_bytes());
  given.export_tokens(0, given.length(), bytes);
  given.export_end(end);
  taken.import_tokens(0, given.length(), bytes);
  CHECK_FALSE(taken.complete());
  taken.import_end(end);
  CHECK(taken.complete());
  const int left = 30 - static_cast<int>(tokens.size() - prompt(world().rank()).size());
  const int resumed = second.adopt(std::move(taken), tokens, prompt(world().rank()).size(), left);
  while (second.step()) {
  }
  CHECK(second.sequence(resumed).tokens == whole.sequence(at_once).tokens);
  CHECK(second.sequence(resumed).generated().size() == 30);
  CHECK(second.counts().guessed > 0);
}

TEST_CASE("a sequence with logits that are no numbers ends the run of all ranks, and gives no token") {
  const test::SharedFolder folder("moe-not-finite-test");
  std::vector<float> huge;
  write_changed_model(folder, [&](const auto& name, const auto& view, auto& tensors) {
    if (name == "model.norm.weight") {
      huge.assign(view.size(), 3e38f);
      tensors.push_back({name, ElementType::f32, view.shape, std::as_bytes(std::span(huge))});
    } else {
      tensors.push_back({name, view.type, view.shape, view.bytes});
    }
  });
  Transformer model(folder.path(), options_with(true), world());
  const auto choose = [](std::span<const float> logits, int, int) { return most_likely(logits); };
  SpeculativeDecoder decoder(model, choose);
  if (world().rank() == 0) decoder.add(prompt(0), 5);
  CHECK(decoder.step());
  if (world().rank() == 0) CHECK(decoder.sequence(0).generated().empty());
  CHECK_THROWS_AS(decoder.step(), AgreedError);
  CHECK_THROWS_WITH(decoder.step(), Catch::Contains("position 7: ") && Catch::Contains("logits are not finite"));
}

TEST_CASE("a model whose files lack the module that its configuration names decodes without guesses") {
  const test::SharedFolder folder("moe-no-module-test");
  write_changed_model(folder, [](const auto& name, const auto& view, auto& tensors) {
    if (!name.starts_with("model.layers.4.")) tensors.push_back({name, view.type, view.shape, view.bytes});
  });
  Transformer whole(find_model(default_model), options_with(true), world()),
      without(folder.path(), options_with(true), world());
  CHECK(whole.can_draft());
  CHECK_FALSE(without.can_draft());
  CHECK(decode(without, 2, {}).texts == decode(whole, 2, {}).texts);
}

TEST_CASE("the module's guesses agree with the model as often as in the reference implementation") {
  const std::string folder = test::shared_path("models/shakespeare-moe");
  if (folder.empty() || world().size() != 2) return;
  const double expected =
      parse_json(read_file(folder + "/reference.json"), "reference.json")["mtp_greedy_agreement"].get<double>();
  const std::string text = read_file(folder + "/val.txt");
  TransformerOptions options = options_with(true);
  options.max_batch_tokens = 256;
  Transformer model(find_model(default_model), options, world());
  constexpr std::size_t window = 256;
  const auto width = static_cast<std::size_t>(model.config().hidden_size);
  const std::vector<std::int32_t> tokens = Tokenizer(model.config()).encode(text);
  long long agreed = 0, guesses = 0;
  const std::size_t rounds = tokens.size() / window / 2;
  for (std::size_t i = 0; i < rounds; ++i) {
    const std::span<const std::int32_t> mine =
        std::span(tokens).subspan((2 * i + static_cast<std::size_t>(world().rank())) * window, window);
    KvCache cache = model.make_cache(), draft_cache = model.make_draft_cache();
    const SequenceChunk chunk{&cache, mine, true};
    const StepResult result = model.forward({&chunk, 1});
    std::vector<std::int32_t> own;
    for (int row = 1; row < static_cast<int>(window); ++row) own.push_back(most_likely(result.row(row)));
    const DraftChunk draft{&draft_cache, result.hidden.first((window - 1) * width), mine.subspan(1), true};
    const StepResult guessed = model.draft({&draft, 1});
    for (int row = 0; row + 1 < static_cast<int>(window); ++row, ++guesses)
      agreed += most_likely(guessed.row(row)) == own[static_cast<std::size_t>(row)] ? 1 : 0;
  }
  const double rate = static_cast<double>(world().sum(agreed)) / static_cast<double>(world().sum(guesses));
  CHECK(rate == Approx(expected).margin(5e-4));
}

}  // namespace supernode::moe
