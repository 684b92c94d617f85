// The rows of a drawn step, really moved: bytes against records, on one to four dies.
#include "runtime/serving/workers/carried_exchange.hpp"

#include <numeric>

#include "collectives/algorithms.hpp"
#include "moe/model_shape.hpp"
#include "runtime/serving/workers/carried_engine.hpp"
#include "runtime/serving/workers/shape_engine.hpp"
#include "tests/support/mpi_fixture.hpp"

using namespace supernode;
using namespace supernode::serving;
using namespace supernode::test;
using emulation::DieStep;
using emulation::MicrobatchStep;

namespace {

/// Two MoE layers and a layout that fits one to four dies; the last of several has nothing but the shared expert.
CarriedExchangeOptions some_options() {
  CarriedExchangeOptions options;
  options.model = moe::load_model_shape("deepseek-r1");
  options.model.layers = options.model.dense_layers + 2;
  options.model.hidden = 224;
  options.model.experts = 12;
  options.model.topk = 3;
  const int dies = world().size();
  options.setup.layout = {.dies = dies, .shared_dies = dies > 1 ? 1 : 0};
  options.deadline_s = 60;
  return options;
}

/// Rows of this die in each layer and slot: none on the first die, more than a slice on the others.
MicrobatchStep some_rows(const CarriedExchangeOptions& options, int factor) {
  const int slots = record_slots(options.setup.layout, options.model);
  MicrobatchStep step;
  for (int layer = 0; layer < options.setup.record_layers(options.model); ++layer)
    for (int slot = 0; slot < slots; ++slot)
      step.rows.push_back(factor * world().rank() * ((slot + layer) % 5 == 0 ? 40 : slot % 3));
  return step;
}

std::uint64_t rows_of(const DieStep& step) {
  std::uint64_t sum = 0;
  for (const MicrobatchStep& microbatch : step.microbatches)
    sum += std::accumulate(microbatch.rows.begin(), microbatch.rows.end(), std::uint64_t{0});
  return sum;
}

}  // namespace

TEST_CASE("an exchange moves the bytes of the rows that its records name, by every algorithm") {
  CarriedExchangeOptions options = some_options();
  const DieStep step{.microbatches = {some_rows(options, 1), some_rows(options, 3)}};
  const DieStep nothing{.microbatches = {some_rows(options, 0)}};
  // 224 values and a scale, padded; 224 values of two bytes.
  constexpr std::uint64_t row_bytes = 512 + 448;
  for (const std::string& name : collectives::available_algorithms(world()).working) {
    INFO(name);
    options.algorithm = name;
    CarriedExchange exchange(world(), options);
    CHECK(exchange.algorithm() == name);
    exchange.move(step);
    CHECK(exchange.transfers().bytes == rows_of(step) * row_bytes);
    exchange.move(nothing);
    exchange.move(step);
    CHECK(exchange.transfers().bytes == 2 * rows_of(step) * row_bytes);
  }
}

TEST_CASE("rows that are not quantised before they leave are of two bytes a value") {
  CarriedExchangeOptions options = some_options();
  options.setup.exchange.early_quantisation = false;
  const DieStep step{.microbatches = {some_rows(options, 1)}};
  CarriedExchange exchange(world(), options);
  exchange.move(step);
  CHECK(exchange.transfers().bytes == rows_of(step) * 2 * 448);
}

TEST_CASE("buffers stay within their bound at the sizes of DeepSeek-R1, and a slice is the same on all dies") {
  CarriedExchangeOptions options = some_options();
  options.model.hidden = 7168;
  const CarriedExchange exchange(world(), options);
  CHECK(exchange.buffer_bytes() <= kCarriedExchangeBytes);
  CHECK(exchange.slice_rows() > 1);
  CHECK(world().max(static_cast<long long>(exchange.slice_rows())) == exchange.slice_rows());
}

TEST_CASE("a drawn step has the same outcome with and without its bytes") {
  const CarriedExchangeOptions options = some_options();
  const ShapeOptions shape{
      .model = options.model, .setup = options.setup, .die = world().rank(), .microbatches = 2, .vocabulary = 100};
  ShapeEngine elided(shape), drawing(shape);
  CarriedEngine carried(drawing, world(), options);
  const auto step = [](StepEngine& engine) {
    const std::vector<std::int32_t> tokens(static_cast<std::size_t>(1 + 7 * world().rank()));
    const auto state = engine.make_state(64);
    const StepWork work{.request = 5, .state = state.get(), .tokens = tokens, .sampler = {}};
    return engine.step({&work, 1}, RunTime{});
  };
  const StepOutcome without = step(elided), with = step(carried);
  CHECK(with.tokens == without.tokens);
  REQUIRE(all_ranks(with.record && without.record));
  for (std::size_t m = 0; m < 2; ++m) CHECK(with.record->microbatches[m].rows == without.record->microbatches[m].rows);
  CHECK(carried.exchanged().bytes == rows_of(*with.record) * (512 + 448));
  CHECK(elided.exchanged() == Transfers{});
}
