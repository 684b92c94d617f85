// An instance that computes: what its steps leave for a modelled machine to price.
#include "runtime/serving/workers/real_engine.hpp"

#include <cstring>
#include <numeric>

#include <mpi.h>

#include "moe/model_shape.hpp"
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

  RealEngine engine(model, StepRecords::kept);
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
  RealEngine engine(model, StepRecords::kept);
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
  RealEngine engine(model, StepRecords::kept);
  Sequences first(engine), second(engine);
  for (int i = 0; i < 3; ++i)
    CHECK(first.step().record->microbatches[0].rows == second.step().record->microbatches[0].rows);
}
