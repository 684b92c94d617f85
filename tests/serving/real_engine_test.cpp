// An instance that computes: what its steps leave for a modelled machine to price.
#include "runtime/serving/workers/real_engine.hpp"

#include <cstring>
#include <numeric>

#include <mpi.h>

#include "moe/model_shape.hpp"
#include "moe/sequence_state.hpp"
#include "runtime/core/clock.hpp"
#include "runtime/core/config_path.hpp"
#include "runtime/core/error.hpp"
#include "runtime/core/mpi/mpi_call.hpp"
#include "runtime/emulation/step_time.hpp"
#include "tests/support/mpi_fixture.hpp"

using namespace supernode;
using namespace supernode::serving;
using namespace supernode::test;
using emulation::DieStep;

namespace {

moe::TransformerOptions some_options() {
  moe::TransformerOptions options;
  options.max_batch_tokens = 24;  // so that some steps are cut
  options.deadline = 60;
  return options;
}

std::vector<std::int32_t> prompt_of(std::size_t tokens, int seed) {
  std::vector<std::int32_t> prompt(tokens);
  for (std::size_t t = 0; t < tokens; ++t)
    prompt[t] = static_cast<std::int32_t>(32 + (t * 7 + 13u * unsigned(seed)) % 90);
  return prompt;
}

/// This die's sequences: two on the first, one on the others, none on the last of several. All of other lengths.
class Sequences {
 public:
  explicit Sequences(RealEngine& engine) : engine_(engine) {
    const int rank = world().rank(), size = world().size();
    const int count = rank == 0 ? 2 : rank == size - 1 ? 0 : 1;
    for (int i = 0; i < count; ++i) {
      inputs_.push_back(prompt_of(static_cast<std::size_t>(10 + 9 * i + 5 * rank), rank + i));
      states_.push_back(engine.make_state(64));
    }
  }

  /// All of their next tokens: the prompts at first, then what was drawn.
  StepOutcome step() {
    std::vector<StepWork> works;
    expected = {};
    for (std::size_t i = 0; i < states_.size(); ++i) {
      works.push_back({i, states_[i].get(), inputs_[i], {}});
      expected.add(static_cast<double>(inputs_[i].size()), states_[i]->length());
    }
    StepOutcome outcome = engine_.step(works, RunTime{});
    for (std::size_t i = 0; i < states_.size(); ++i) inputs_[i] = {outcome.tokens[i].value()};
    return outcome;
  }

  emulation::AttentionWork expected;  ///< of the last step

 private:
  RealEngine& engine_;
  std::vector<std::vector<std::int32_t>> inputs_;
  std::vector<std::unique_ptr<EngineState>> states_;
};

/// The records of all dies, each in one microbatch, on every rank.
std::vector<DieStep> gather(const DieStep& mine) {
  const auto size = static_cast<std::size_t>(world().size());
  const emulation::MicrobatchStep& part = mine.microbatches.at(0);
  const double work[] = {part.work.sequences, part.work.tokens, part.work.context, part.work.attended};
  const int count = static_cast<int>(part.rows.size());
  std::vector<double> works(4 * size);
  std::vector<std::int32_t> rows(size * part.rows.size());
  SUPERNODE_MPI(MPI_Allgather(work, 4, MPI_DOUBLE, works.data(), 4, MPI_DOUBLE, world().get()));
  SUPERNODE_MPI(MPI_Allgather(part.rows.data(), count, MPI_INT32_T, rows.data(), count, MPI_INT32_T, world().get()));
  std::vector<DieStep> all(size);
  for (std::size_t rank = 0; rank < size; ++rank) {
    const double* const w = works.data() + 4 * rank;
    const auto first = rows.begin() + static_cast<std::ptrdiff_t>(rank) * count;
    all[rank].microbatches = {{{w[0], w[1], w[2], w[3]}, {first, first + count}}};
  }
  return all;
}

bool same_bits(const emulation::StepTiming& a, const emulation::StepTiming& b) {
  const auto bits = [](const emulation::StepTiming& timing) {
    std::vector<double> values;
    for (const ModelTime end : timing.ends) values.push_back(end.value);
    for (const emulation::Terms* terms : {&timing.terms, &timing.exchange})
      for (const emulation::Term& term : *terms) values.push_back(term.time.value);
    return values;
  };
  const std::vector<double> left = bits(a), right = bits(b);
  return a.last == b.last && left.size() == right.size() &&
         std::memcmp(left.data(), right.data(), left.size() * sizeof(double)) == 0;
}

}  // namespace

TEST_CASE("a step's record says what its works asked for, and where their rows went") {
  moe::Transformer model(find_model(default_model), some_options(), world());
  const moe::ModelConfig& config = model.config();
  RealEngine silent(model);
  Sequences unrecorded(silent);
  CHECK_FALSE(unrecorded.step().record.has_value());

  RealEngine engine(model, {.records = StepRecords::kept});
  CHECK(engine.state_bytes_per_token() == silent.state_bytes_per_token());
  Sequences sequences(engine);
  for (int i = 0; i < 3; ++i) {
    const StepOutcome outcome = sequences.step();
    REQUIRE(all_ranks(outcome.record.has_value() && outcome.record->microbatches.size() == 1));
    CHECK(outcome.record->loads.empty());
    const emulation::MicrobatchStep& part = outcome.record->microbatches[0];
    CHECK(part.work.sequences == sequences.expected.sequences);
    CHECK(part.work.tokens == sequences.expected.tokens);
    CHECK(part.work.context == sequences.expected.context);
    CHECK(part.work.attended == sequences.expected.attended);

    const int layers = config.n_layers - config.first_dense_layers, slots = config.n_routed_experts;
    REQUIRE(all_ranks(part.rows.size() == static_cast<std::size_t>(layers * slots)));
    for (int layer = 0; layer < layers; ++layer) {
      const auto first = part.rows.begin() + layer * slots;
      CHECK(std::accumulate(first, first + slots, 0) == part.work.tokens * config.topk);
    }
  }
  Sequences again(silent), recorded(engine);
  const StepOutcome plain = again.step();
  CHECK_FALSE(plain.record.has_value());
  CHECK(plain.tokens == recorded.step().tokens);
}

TEST_CASE("an engine counts what it exchanged itself, whatever its model did before") {
  moe::Transformer model(find_model(default_model), some_options(), world());
  const auto exchanged = [&model] {
    RealEngine engine(model);
    CHECK(engine.exchanged() == Transfers{});
    Sequences sequences(engine);
    sequences.step();
    CHECK((engine.exchanged().bytes > 0) == (sequences.expected.tokens > 0));
    return engine.exchanged().bytes;
  };
  const std::uint64_t first = exchanged();
  CHECK(exchanged() == first);
}

TEST_CASE("background work runs between the layers of a die that has tokens") {
  moe::Transformer model(find_model(default_model), {}, world());
  RealEngine engine(model);
  Sequences sequences(engine);
  int calls = 0;
  engine.set_background([&] { ++calls; });
  sequences.step();
  const bool computes = sequences.expected.tokens > 0;
  CHECK(calls == (computes ? model.config().n_layers : 0));
  engine.set_background({});
  sequences.step();
  CHECK(calls == (computes ? model.config().n_layers : 0));
}

TEST_CASE("the records of an instance's dies have a price on a modelled machine") {
  moe::Transformer model(find_model(default_model), some_options(), world());
  RealEngine engine(model, {.records = StepRecords::kept});
  Sequences sequences(engine);
  const std::vector<DieStep> prefill = gather(sequences.step().record.value());
  const std::vector<DieStep> decode = gather(sequences.step().record.value());
  if (model.config().n_routed_experts % world().size() != 0) {
    CHECK_THROWS_AS(moe::expert_layout_of(model.config(), world().size()), UsageError);
    return;
  }

  const emulation::Machine machine = emulation::load_machine("cloudmatrix384");
  const emulation::ModelShape shape = moe::shape_of(model.config());
  std::vector<int> dies(static_cast<std::size_t>(world().size()));
  std::iota(dies.begin(), dies.end(), 0);
  const std::vector<ModelTime> starts(dies.size());
  for (const emulation::Stage stage : {emulation::Stage::prefill, emulation::Stage::decode}) {
    emulation::StepSetup setup;
    setup.stage = stage;
    setup.layout = moe::expert_layout_of(model.config(), world().size());
    const std::vector<DieStep>& steps = stage == emulation::Stage::prefill ? prefill : decode;
    emulation::StepPricer pricer(machine, shape, setup, dies);
    const emulation::StepTiming timing = pricer.step_time(steps, starts);
    CHECK(timing.end().value > 0);
    CHECK(same_bits(timing, pricer.step_time(steps, starts)));
    CHECK(same_bits(timing, emulation::StepPricer(machine, shape, setup, dies).step_time(steps, starts)));
  }
}

TEST_CASE("the same sequences leave the same records") {
  moe::Transformer model(find_model(default_model), some_options(), world());
  RealEngine engine(model, {.records = StepRecords::kept});
  Sequences first(engine), second(engine);
  for (int i = 0; i < 3; ++i)
    CHECK(first.step().record->microbatches[0].rows == second.step().record->microbatches[0].rows);
}

namespace {

moe::Transformer make_model(bool mtp, int microbatches = 1) {
  moe::TransformerOptions options;
  options.max_batch_tokens = 256;
  options.deadline = 60;
  options.mtp = mtp;
  options.draft_experts = 2;
  options.draft_window = 64;
  options.microbatches = microbatches;
  return moe::Transformer(find_model(default_model), options, world());
}

/// A text that goes on in `count` tokens at least, on an engine of its own.
class Text {
 public:
  Text(int length, int seed, double temperature) : tokens(prompt_of(static_cast<std::size_t>(length), seed)) {
    sampler_ = {temperature, 1, 11};
    request_ = static_cast<RequestId>(length);
  }

  /// Moves the state to another engine. @param end with what the module needs to go on
  void move_to(RealEngine& engine, int first = 0) {
    std::unique_ptr<EngineState> there = engine.make_state(512);
    const int count = state->length();
    std::vector<std::byte> bytes(static_cast<std::size_t>(count - first) * engine.state_bytes_per_token()),
        end(engine.state_end_bytes());
    state->export_tokens(first, count - first, bytes);
    state->export_end(count, end);
    there->import_tokens(first, count - first, bytes);
    there->import_end(end);
    state = std::move(there);
  }
  StepWork work() {
    fresh_ = std::vector<std::int32_t>(tokens.begin() + state->length(), tokens.end());
    return {request_, state.get(), fresh_, sampler_};
  }
  void take(const StepOutcome& outcome, std::size_t index) {
    tokens.push_back(outcome.tokens[index].value());
    if (!outcome.further.empty())
      tokens.insert(tokens.end(), outcome.further[index].begin(), outcome.further[index].end());
  }

  std::vector<std::int32_t> tokens;
  std::unique_ptr<EngineState> state;

 private:
  moe::SamplerOptions sampler_;
  RequestId request_;
  std::vector<std::int32_t> fresh_;
};

/// As many as Sequences has, and of the same kinds of lengths.
std::vector<Text> some_texts(double temperature) {
  const int rank = world().rank(), size = world().size();
  std::vector<Text> texts;
  for (int i = 0; i < (rank == 0 ? 3 : rank == size - 1 ? 0 : 1); ++i)
    texts.emplace_back(10 + 47 * i + 5 * rank, rank + i, temperature);
  return texts;
}

StepOutcome step_all(RealEngine& engine, std::vector<Text>& texts) {
  std::vector<StepWork> works;
  for (Text& text : texts) works.push_back(text.work());
  StepOutcome outcome = engine.step(works, RunTime{});
  for (std::size_t i = 0; i < texts.size(); ++i) texts[i].take(outcome, i);
  return outcome;
}

/// Prefill on one engine, hand-over, decode on another one.
std::vector<std::vector<std::int32_t>> serve_texts(RealEngine& prefill, RealEngine& decode, double temperature) {
  constexpr int steps = 30;
  std::vector<Text> texts = some_texts(temperature);
  for (Text& text : texts) text.state = prefill.make_state(512);
  step_all(prefill, texts);
  for (Text& text : texts) text.move_to(decode);
  for (int i = 0; i < steps; ++i) step_all(decode, texts);
  std::vector<std::vector<std::int32_t>> all;
  for (Text& text : texts) all.push_back(text.tokens);
  return all;
}

}  // namespace

TEST_CASE("an engine that guesses draws the same tokens in fewer steps, in any number of microbatches") {
  for (const double temperature : {0.0, 0.8}) {
    moe::Transformer plain = make_model(false);
    RealEngine alone(plain);
    const auto expected = serve_texts(alone, alone, temperature);
    CHECK(alone.guesses() == GuessCounts{});
    CHECK(alone.state_end_bytes() == 0);
    GuessCounts first;
    for (const int microbatches : {1, 2}) {
      INFO("temperature " << temperature << ", microbatches " << microbatches);
      moe::Transformer model = make_model(true, microbatches);
      RealEngine prefill(model, {.speculation = Speculation::fill}), decode(model, {.speculation = Speculation::guess});
      CHECK(decode.state_end_bytes() == moe::state_end_bytes(model.config(), moe::DraftCache::included));
      CHECK(decode.state_bytes_per_token() == moe::state_bytes_per_token(model.config(), moe::DraftCache::included));
      const auto guessed = serve_texts(prefill, decode, temperature);
      REQUIRE(all_ranks(guessed.size() == expected.size()));
      for (std::size_t i = 0; i < expected.size(); ++i) {
        REQUIRE(guessed[i].size() >= expected[i].size());
        CHECK(std::equal(expected[i].begin(), expected[i].end(), guessed[i].begin()));
      }
      CHECK(prefill.guesses() == GuessCounts{});
      // The first step has a guess, too.
      CHECK(decode.guesses().drafted == 30 * expected.size());
      if (!expected.empty()) CHECK(decode.guesses().accepted > 0);
      if (microbatches == 1) first = decode.guesses();
      CHECK(decode.guesses() == first);
    }
  }
}

TEST_CASE("a prompt that goes on from a block costs no guess, whatever stood behind the block when it was stored") {
  constexpr int block = 32, shared = 3 * block;
  moe::Transformer model = make_model(true);
  RealEngine prefill(model, {.speculation = Speculation::fill, .block_tokens = block}),
      decode(model, {.speculation = Speculation::guess});
  const auto goes_on_with = [&](int seed) {
    Text text(shared, 1, 0);
    const std::vector<std::int32_t> rest = prompt_of(100, seed);  // computed in the same way with a hit and without
    text.tokens.insert(text.tokens.end(), rest.begin(), rest.end());
    text.state = prefill.make_state(512);
    return text;
  };
  const auto decoded = [&](Text& text) {
    std::vector<StepWork> work{text.work()};
    text.take(prefill.step(work, RunTime{}), 0);
    text.move_to(decode);
    const GuessCounts before = decode.guesses();
    for (int i = 0; i < 40; ++i) {
      work = {text.work()};
      text.take(decode.step(work, RunTime{}), 0);
    }
    return decode.guesses().accepted - before.accepted;
  };
  // Blocks of one prompt, as a pool would keep them.
  Text stored = goes_on_with(5);
  const StepWork work = stored.work();
  static_cast<void>(prefill.step(std::span(&work, 1), RunTime{}));
  const std::size_t bytes = block * prefill.state_bytes_per_token();
  std::vector<std::vector<std::byte>> blocks(3, std::vector<std::byte>(bytes)), ends(3);
  for (int b = 0; b < 3; ++b) {
    const auto i = static_cast<std::size_t>(b);
    ends[i].resize(prefill.state_end_bytes());
    stored.state->export_tokens(b * block, block, blocks[i]);
    stored.state->export_end((b + 1) * block, ends[i]);
  }
  for (const int seed : {6, 7, 8}) {
    Text computed = goes_on_with(seed), hit = goes_on_with(seed);
    for (int b = 0; b < 3; ++b) {
      hit.state->import_tokens(b * block, block, blocks[static_cast<std::size_t>(b)]);
      hit.state->import_end(ends[static_cast<std::size_t>(b)]);
    }
    CHECK(hit.state->length() == shared);
    const std::uint64_t without = decoded(computed), with = decoded(hit);
    CHECK(with == without);
    CHECK(without > 0);
    CHECK(hit.tokens == computed.tokens);
    // What the pool gets of the rest is the same, too.
    std::vector<std::byte> a(bytes), b(bytes);
    computed.state->export_tokens(shared, block, a);
    hit.state->export_tokens(shared, block, b);
    CHECK(a == b);
  }
}

TEST_CASE("a record has each microbatch's share and, with guesses, the module's layer") {
  moe::Transformer model = make_model(true, 2);
  const moe::ModelConfig& config = model.config();
  RealEngine prefill(model, {.records = StepRecords::kept, .speculation = Speculation::fill}),
      decode(model, {.records = StepRecords::kept, .speculation = Speculation::guess});
  const auto check = [&](const StepOutcome& outcome, double sequences, double tokens, double attended, int layers) {
    REQUIRE(all_ranks(outcome.record->microbatches.size() == 2));
    const emulation::AttentionWork all = outcome.record->work();
    CHECK(all.sequences == sequences);
    CHECK(all.tokens == tokens);
    CHECK(all.attended == attended);
    const auto slots = static_cast<std::size_t>(config.n_routed_experts);
    for (const emulation::MicrobatchStep& part : outcome.record->microbatches) {
      REQUIRE(part.rows.size() == static_cast<std::size_t>(layers) * slots);
      for (int layer = 0; layer < layers; ++layer) {
        const auto first = part.rows.begin() + layer * config.n_routed_experts;
        const int sum = std::accumulate(first, first + config.n_routed_experts, 0);
        const bool module = layer == config.n_layers - config.first_dense_layers;
        CHECK(sum == (module ? part.work.sequences * 2 : part.work.tokens * config.topk));
      }
    }
  };
  std::vector<Text> texts = some_texts(0);
  const int main_layers = config.n_layers - config.first_dense_layers;
  double tokens = 0, attended = 0, cached = 0;
  for (Text& text : texts) {
    text.state = prefill.make_state(512);
    const auto length = static_cast<double>(text.tokens.size());
    tokens += length;
    attended += length * length / 2;
  }
  const auto sequences = static_cast<double>(texts.size());
  check(step_all(prefill, texts), sequences, tokens, attended, main_layers);
  for (Text& text : texts) {
    text.move_to(decode);
    cached += text.state->length();
  }
  check(step_all(decode, texts), sequences, 2 * sequences, 2 * (cached + sequences), main_layers + 1);
}
