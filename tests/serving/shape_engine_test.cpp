// The engine without a model: what its records hold and which tokens it gives. No mpirun.
#include "runtime/serving/workers/shape_engine.hpp"

#include <algorithm>
#include <cmath>
#include <list>
#include <map>
#include <memory>
#include <numeric>

#include "moe/model_shape.hpp"
#include "runtime/emulation/machine/machine.hpp"
#include "runtime/emulation/prefill.hpp"
#include "tests/support/catch.hpp"

using namespace supernode;
using namespace supernode::serving;
using Catch::Matchers::Contains;
using emulation::AttentionWork;
using emulation::MicrobatchStep;
using emulation::Stage;

namespace {

/// Four MoE layers and 14 experts on eight dies, one of which has the shared expert.
ShapeOptions options_of(Stage stage) {
  ShapeOptions options;
  options.model = moe::load_model_shape("deepseek-r1");
  options.model.layers = 7;
  options.model.experts = 14;
  options.model.topk = 3;
  options.setup.stage = stage;
  options.setup.layout = {.dies = 8, .shared_dies = 1};
  options.load = {.drift = 0.28, .request_spread = 1.2};
  options.seed = 5;
  options.vocabulary = 1000;
  return options;
}

ShapeOptions speculating(double acceptance, int microbatches = 1) {
  ShapeOptions options = options_of(Stage::decode);
  options.setup.mtp = true;
  options.acceptance = acceptance;
  options.microbatches = microbatches;
  return options;
}

/// Works of a step and what they point to.
class Batch {
 public:
  explicit Batch(ShapeEngine& engine) : engine_(engine) {}

  /// `fresh` tokens behind `cached` ones.
  Batch& add(RequestId request, int cached, int fresh = 1) {
    states_.push_back(engine_.make_state(cached + fresh));
    states_.back()->place_tokens(cached);
    tokens_.push_back(std::vector<std::int32_t>(static_cast<std::size_t>(fresh)));
    works_.push_back({request, states_.back().get(), tokens_.back(), {}});
    return *this;
  }
  StepOutcome step() { return engine_.step(works_, {}); }
  int length(std::size_t i) const { return states_[i]->length(); }

 private:
  ShapeEngine& engine_;
  std::vector<std::unique_ptr<EngineState>> states_;
  std::list<std::vector<std::int32_t>> tokens_;
  std::vector<StepWork> works_;
};

std::int64_t sum(std::span<const std::int32_t> rows) {
  return std::accumulate(rows.begin(), rows.end(), std::int64_t{0});
}

/// Rows of `tokens` tokens: three choices, and one of the shared expert, in each layer.
void check_rows(const MicrobatchStep& microbatch, int tokens, std::size_t layers) {
  REQUIRE(microbatch.rows.size() == layers * 15);
  for (std::size_t layer = 0; layer < layers; ++layer) {
    const auto rows = std::span(microbatch.rows).subspan(layer * 15, 15);
    CHECK(sum(rows.first(14)) == tokens * 3);
    CHECK(rows[14] == tokens);
  }
}

void check_work(const AttentionWork& work, double sequences, double tokens, double context, double attended) {
  CHECK(work.sequences == sequences);
  CHECK(work.tokens == tokens);
  CHECK(work.context == context);
  CHECK(work.attended == attended);
}

}  // namespace

TEST_CASE("a decode step has one token a sequence, in turns for its microbatches") {
  ShapeOptions options = options_of(Stage::decode);
  options.microbatches = 2;
  ShapeEngine engine(options);
  Batch batch(engine);
  const StepOutcome outcome = batch.add(1, 100).add(2, 200).add(3, 300).step();
  REQUIRE(outcome.record);
  REQUIRE(outcome.record->microbatches.size() == 2);
  check_work(outcome.record->microbatches[0].work, 2, 2, 402, 401);
  check_work(outcome.record->microbatches[1].work, 1, 1, 201, 200.5);
  check_rows(outcome.record->microbatches[0], 2, 4);
  check_rows(outcome.record->microbatches[1], 1, 4);
  CHECK(outcome.tokens.size() == 3);
  CHECK(outcome.further.empty());
  CHECK(batch.length(0) == 101);
  CHECK(batch.length(2) == 301);
  CHECK(outcome.exchange == RunSpan{});
}

TEST_CASE("with speculation a sequence has two rows and the module a layer") {
  ShapeEngine engine(speculating(1));
  Batch batch(engine);
  const StepOutcome outcome = batch.add(1, 100).add(2, 200).step();
  REQUIRE(outcome.record->microbatches.size() == 1);
  check_work(outcome.record->microbatches[0].work, 2, 4, 304, 2 * 101 + 2 * 201);
  check_rows(outcome.record->microbatches[0], 4, 5);
}

TEST_CASE("a prefill step has the uncomputed tokens, cut in the middle for two microbatches") {
  ShapeOptions options = options_of(Stage::prefill);
  options.setup.mtp = true;  // concerns decode alone
  ShapeEngine whole(options);
  options.microbatches = 2;
  ShapeEngine halves(options);
  SECTION("one microbatch") {
    const StepOutcome outcome = Batch(whole).add(1, 128, 100).add(2, 0, 50).step();
    REQUIRE(outcome.record->microbatches.size() == 1);
    check_work(outcome.record->microbatches[0].work, 2, 150, 278, 100 * 178 + 50 * 25);
    check_rows(outcome.record->microbatches[0], 150, 4);
    CHECK(outcome.further.empty());
  }
  SECTION("a single prompt is cut in two, and counts as a sequence where it ends") {
    Batch batch(halves);
    const StepOutcome outcome = batch.add(1, 128, 101).step();
    check_work(outcome.record->microbatches[0].work, 0, 51, 179, 51 * 153.5);
    check_work(outcome.record->microbatches[1].work, 1, 50, 229, 50 * 204);
    check_rows(outcome.record->microbatches[0], 51, 4);
    check_rows(outcome.record->microbatches[1], 50, 4);
    CHECK(batch.length(0) == 229);
  }
  SECTION("equal prompts stay whole") {
    const StepOutcome outcome = Batch(halves).add(1, 0, 64).add(2, 0, 64).add(3, 0, 64).add(4, 0, 64).step();
    for (const MicrobatchStep& microbatch : outcome.record->microbatches)
      check_work(microbatch.work, 2, 128, 128, 2 * 64 * 32);
  }
  SECTION("both microbatches together have the rows of one") {
    const auto step = [](ShapeEngine& engine) { return Batch(engine).add(1, 0, 70).add(2, 10, 33).step(); };
    const StepOutcome one = step(whole), two = step(halves);
    std::vector<std::int32_t> rows = two.record->microbatches[0].rows;
    for (std::size_t i = 0; i < rows.size(); ++i) rows[i] += two.record->microbatches[1].rows[i];
    CHECK(rows == one.record->microbatches[0].rows);
    CHECK(one.tokens == two.tokens);
  }
}

TEST_CASE("a die without work has a record with nothing in it") {
  ShapeEngine engine(speculating(1, 2));
  const StepOutcome outcome = Batch(engine).step();
  REQUIRE(outcome.record->microbatches.size() == 2);
  for (const MicrobatchStep& microbatch : outcome.record->microbatches) {
    check_work(microbatch.work, 0, 0, 0, 0);
    check_rows(microbatch, 0, 5);
  }
  CHECK(outcome.tokens.empty());
}

TEST_CASE("tokens are a function of request and position, whatever the batch") {
  ShapeOptions options = options_of(Stage::decode);
  ShapeEngine engine(options);
  options.die = 3;
  ShapeEngine elsewhere(options);
  options.setup.stage = Stage::prefill;
  ShapeEngine prefill(options);
  options.seed = 6;
  ShapeEngine other(options);
  const StepOutcome alone = Batch(engine).add(7, 40).step();
  CHECK(alone.tokens[0] == engine.token(7, 41));
  CHECK(Batch(elsewhere).add(1, 3).add(7, 40).add(2, 9).step().tokens[1] == alone.tokens[0]);
  CHECK(Batch(prefill).add(7, 0, 41).step().tokens[0] == alone.tokens[0]);
  std::map<std::int32_t, int> seen;
  int equal = 0;
  for (int position = 0; position < 5000; ++position) {
    const std::int32_t token = engine.token(7, position);
    REQUIRE((token >= 0 && token < 1000));
    ++seen[token];
    equal += token == other.token(7, position) || token == engine.token(8, position);
  }
  CHECK(seen.size() > 980);  // of 1000, e^-5 of them missing
  CHECK(equal < 30);         // 10 are expected
}

TEST_CASE("speculation changes how fast tokens come, not which") {
  ShapeEngine engine(speculating(0.7));
  Batch batch(engine);
  batch.add(9, 20);
  std::vector<std::int32_t> tokens;
  constexpr int kSteps = 4000;
  for (int i = 0; i < kSteps; ++i) {
    const StepOutcome outcome = batch.step();
    REQUIRE(outcome.further.size() == 1);
    REQUIRE(outcome.further[0].size() <= 1);
    tokens.push_back(*outcome.tokens[0]);
    tokens.insert(tokens.end(), outcome.further[0].begin(), outcome.further[0].end());
  }
  CHECK(batch.length(0) == 20 + static_cast<int>(tokens.size()));
  std::vector<std::int32_t> expected;
  for (int position = 21; expected.size() < tokens.size(); ++position) expected.push_back(engine.token(9, position));
  CHECK(tokens == expected);
  CHECK(static_cast<double>(tokens.size()) / kSteps == Approx(1.7).margin(0.03));
}

TEST_CASE("acceptance is a chance: never at 0, always at 1") {
  ShapeEngine never(speculating(0)), always(speculating(1));
  for (int i = 0; i < 200; ++i) {
    const auto request = static_cast<RequestId>(i);
    CHECK(Batch(never).add(request, i).step().further == std::vector<std::vector<std::int32_t>>{{}});
    CHECK(Batch(always).add(request, i).step().further[0] == std::vector{always.token(request, i + 2)});
  }
}

TEST_CASE("states are carried as bytes by position, or not at all") {
  ShapeOptions options = options_of(Stage::prefill);
  SECTION("carried") {
    options.bytes_per_token = 24;
    ShapeEngine engine(options);
    CHECK(engine.state_bytes_per_token() == 24);
    const auto one = engine.make_state(50), two = engine.make_state(50);
    one->place_tokens(50);
    std::vector<std::byte> bytes(50 * 24), part(10 * 24);
    one->export_tokens(0, 50, bytes);
    one->export_tokens(30, 10, part);
    CHECK(std::equal(part.begin(), part.end(), bytes.begin() + 30 * 24));
    CHECK(std::count(bytes.begin(), bytes.end(), bytes[0]) < 5 * 24);
    two->import_tokens(0, 10, std::span(bytes).first(10 * 24));
    two->import_tokens(5, 20, std::span(bytes).subspan(5 * 24, 20 * 24));
    CHECK(two->length() == 25);
    two->import_tokens(0, 3, std::span(bytes).first(3 * 24));
    CHECK(two->length() == 25);
  }
  SECTION("a wrong byte is refused by token and place") {
    options.bytes_per_token = 21;  // the last word is cut
    ShapeEngine engine(options);
    const auto one = engine.make_state(50), two = engine.make_state(50);
    one->place_tokens(50);
    std::vector<std::byte> bytes(50 * 21);
    one->export_tokens(0, 50, bytes);
    two->import_tokens(0, 30, std::span(bytes).first(30 * 21));
    for (const std::size_t at : {0u, 7u, 16u, 20u}) {
      std::vector<std::byte> wrong(bytes.begin() + 30 * 21, bytes.end());
      wrong[5 * 21 + at] ^= std::byte{0x10};
      CHECK_THROWS_WITH(two->import_tokens(30, 20, wrong),
                        Contains("token 35 came with a wrong byte: number " + std::to_string(at) + " of 21"));
    }
    // Whole tokens in each other's place.
    CHECK_THROWS_WITH(two->import_tokens(30, 20, std::span(bytes).first(20 * 21)), Contains("token 30 came with"));
  }
  SECTION("elided") {
    ShapeEngine engine(options);
    CHECK(engine.state_bytes_per_token() == 0);
    const auto state = engine.make_state(50);
    state->import_tokens(0, 50, {});
    CHECK(state->length() == 50);
    state->export_tokens(10, 40, {});
  }
}

TEST_CASE("the records of all dies are what prices a step") {
  const emulation::Machine machine = emulation::load_machine("cloudmatrix384");
  for (const Stage stage : {Stage::prefill, Stage::decode}) {
    ShapeOptions options = stage == Stage::decode ? speculating(0.5, 2) : options_of(stage);
    std::vector<int> dies(8);
    std::iota(dies.begin(), dies.end(), 0);
    std::vector<emulation::DieStep> steps;
    for (int die = 0; die < 8; ++die) {
      options.die = die;
      ShapeEngine engine(options);
      Batch batch(engine);
      for (int i = 0; i < die; ++i)
        batch.add(static_cast<RequestId>(100 * die + i), 500, stage == Stage::decode ? 1 : 64);
      steps.push_back(*batch.step().record);
    }
    const std::vector<ModelTime> starts(8);
    const auto timing = emulation::StepPricer(machine, options.model, options.setup, dies).step_time(steps, starts);
    CHECK(timing.end().value > 0);
  }
}

TEST_CASE("options outside their ranges are refused") {
  const auto refused = [](auto change) {
    ShapeOptions options = options_of(Stage::decode);
    change(options);
    CHECK_THROWS_AS(ShapeEngine(options), std::invalid_argument);
  };
  refused([](ShapeOptions& o) { o.microbatches = 3; });
  refused([](ShapeOptions& o) { o.acceptance = 1.5; });
  refused([](ShapeOptions& o) { o.vocabulary = 0; });
  refused([](ShapeOptions& o) { o.die = 8; });
  refused([](ShapeOptions& o) { o.setup.layout.redundant = 3; });
  refused([](ShapeOptions& o) { o.load.layers = {{1, 2, 3}}; });
}

namespace {

/// Records of all dies for one prompt that they share. @param cached tokens of it that are there
std::vector<emulation::DieStep> shared_prompt(ShapeOptions options, int cached, int fresh, int home) {
  std::vector<emulation::DieStep> records;
  for (options.die = 0; options.die < options.setup.layout.dies; ++options.die) {
    ShapeEngine engine(options);
    const std::unique_ptr<EngineState> state = engine.make_state(cached + fresh);
    state->place_tokens(cached);
    const std::vector<std::int32_t> tokens(static_cast<std::size_t>(fresh));
    StepWork work{7, state.get(), tokens, {}};
    work.shared = SharedWork{options.setup.layout.dies, home};
    const StepOutcome outcome = engine.step({&work, 1}, {});
    CHECK(outcome.tokens.at(0) == SampledToken(engine.token(7, cached + fresh)));
    CHECK(state->length() == cached + fresh);
    records.push_back(*outcome.record);
  }
  return records;
}

}  // namespace

TEST_CASE("of a prompt that all dies share each has a part of the tokens, and all their rows are those of one die") {
  ShapeOptions options = options_of(Stage::prefill);
  options.setup.layout = {.dies = 7};
  options.microbatches = GENERATE(1, 2);
  const int fresh = GENERATE(1000, 3), cached = 200, home = 4;
  const std::vector<emulation::DieStep> records = shared_prompt(options, cached, fresh, home);
  options.die = home;
  ShapeEngine alone(options);
  const StepOutcome whole = Batch(alone).add(7, cached, fresh).step();
  for (std::size_t m = 0; m < static_cast<std::size_t>(options.microbatches); ++m) {
    AttentionWork sum_of;
    std::vector<std::int32_t> rows(whole.record->microbatches[m].rows.size());
    for (std::size_t die = 0; die < 7; ++die) {
      const MicrobatchStep& part = records[die].microbatches[m];
      sum_of += part.work;
      for (std::size_t i = 0; i < rows.size(); ++i) rows[i] += part.rows[i];
      CHECK(part.work.sequences == (die == 4 ? whole.record->microbatches[m].work.sequences : 0));
      CHECK(std::abs(part.work.tokens - whole.record->microbatches[m].work.tokens / 7) < 1);
    }
    const AttentionWork& all = whole.record->microbatches[m].work;
    CHECK(sum_of.tokens == all.tokens);
    CHECK(sum_of.context == Approx(all.context));
    CHECK(sum_of.attended == Approx(all.attended));
    CHECK(rows == whole.record->microbatches[m].rows);
  }
}

TEST_CASE("one prompt of 4096 tokens over the dies of an instance takes the time of the uniform stage") {
  const emulation::Machine machine = emulation::load_machine("cloudmatrix384");
  const int dies = GENERATE(4, 32);
  ShapeOptions options;
  options.model = moe::load_model_shape("deepseek-r1");
  options.setup.stage = Stage::prefill;
  options.setup.layout = {.dies = dies};
  options.vocabulary = 1000;
  emulation::PrefillSetup uniform;
  uniform.layout = options.setup.layout;
  uniform.tokens_per_die = 4096.0 / dies;
  uniform.prompt_tokens = 4096;
  uniform.pooled = false;
  uniform.microbatches = 1;
  const emulation::PrefillResult stage = emulation::prefill_batch(machine, options.model, uniform);

  std::vector<int> of_machine(static_cast<std::size_t>(dies));
  std::iota(of_machine.begin(), of_machine.end(), 0);
  emulation::StepPricer pricer(machine, options.model, options.setup, of_machine);
  const std::vector<emulation::DieStep> records = shared_prompt(options, 0, 4096, 1);
  const std::vector<ModelTime> starts(static_cast<std::size_t>(dies));
  const emulation::StepTiming timing = pricer.step_time(records, starts);
  // What does not depend on drawn experts is the same; the busiest experts are the expected ones but for chance.
  for (const char* part : {"dense layer", "sum"})
    CHECK(timing.terms.of(part).value == Approx(stage.parts.of(part).value).epsilon(1e-6));
  CAPTURE(dies, timing.end().value, stage.batch.value);
  CHECK(timing.end().value == Approx(stage.batch.value).epsilon(0.03));

  // One die's prompt goes through attention by head as well, but its rows and its experts' rows leave from one die.
  options.die = 0;
  std::vector<emulation::DieStep> one;
  for (options.die = 0; options.die < dies; ++options.die) {
    ShapeEngine engine(options);
    Batch batch(engine);
    if (options.die == 0) batch.add(7, 0, 4096);
    one.push_back(*batch.step().record);
  }
  CHECK(pricer.step_time(one, starts).end().value > 1.2 * timing.end().value);
}
