// Experts that change dies while an instance serves. The dies are threads, and their messages stay in memory.
#include "runtime/serving/workers/rebalancing_engine.hpp"

#include <algorithm>
#include <barrier>
#include <map>
#include <mutex>
#include <numeric>
#include <optional>
#include <set>
#include <thread>

#include "moe/model_shape.hpp"
#include "runtime/core/byte_stream.hpp"
#include "runtime/core/error.hpp"
#include "runtime/serving/workers/shape_experts.hpp"
#include "tests/serving/fake_port.hpp"
#include "tests/support/catch.hpp"

using namespace supernode;
using namespace supernode::serving;
using Catch::Matchers::Contains;
using emulation::Stage;

namespace {

/// The dies of an instance: sums and messages between threads.
class Instance {
 public:
  explicit Instance(int dies) : boxes_(static_cast<std::size_t>(dies)), here_(dies) {
    for (int die = 0; die < dies; ++die) ports_.push_back(std::make_unique<Port>(*this, die));
  }

  InstanceDies die(int number) {
    return {.die = number,
            .count = static_cast<int>(boxes_.size()),
            .port = ports_[static_cast<std::size_t>(number)].get(),
            .add_up = [this](std::span<double> values) { add_up(values); },
            .deadline_s = 60};
  }

  /// Runs `body(die)` on a thread for each die. @throws what the first die that failed threw
  template <class Body>
  void run(Body body) {
    std::vector<std::exception_ptr> failures(boxes_.size());
    std::vector<std::thread> threads;
    for (std::size_t die = 0; die < boxes_.size(); ++die)
      threads.emplace_back([&, die] {
        try {
          body(static_cast<int>(die));
        } catch (...) {
          failures[die] = std::current_exception();
          here_.arrive_and_drop();  // the others' sums then go on without it
        }
      });
    for (std::thread& thread : threads) thread.join();
    for (const std::exception_ptr& failure : failures)
      if (failure) std::rethrow_exception(failure);
  }

 private:
  class Port : public MessagePort {
   public:
    Port(Instance& instance, int die) : instance_(instance), die_(die) {}
    void send(int to, int tag, std::vector<std::byte> bytes) override {
      const std::scoped_lock lock(instance_.mutex_);
      instance_.boxes_.at(static_cast<std::size_t>(to)).push_back({die_, tag, std::move(bytes)});
    }
    std::optional<Message> poll() override {
      const std::scoped_lock lock(instance_.mutex_);
      std::deque<Message>& box = instance_.boxes_[static_cast<std::size_t>(die_)];
      if (box.empty()) return std::nullopt;
      Message message = std::move(box.front());
      box.pop_front();
      return message;
    }
    void flush(double) override {}

   private:
    Instance& instance_;
    const int die_;
  };

  void add_up(std::span<double> values) {
    {
      const std::scoped_lock lock(mutex_);
      sums_.resize(values.size());
      for (std::size_t i = 0; i < values.size(); ++i) sums_[i] += values[i];
    }
    here_.arrive_and_wait();
    std::ranges::copy(sums_, values.begin());
    here_.arrive_and_wait();
    {
      const std::scoped_lock lock(mutex_);
      sums_.clear();
    }
    here_.arrive_and_wait();
  }

  std::mutex mutex_;
  std::vector<std::deque<Message>> boxes_;
  std::vector<std::unique_ptr<Port>> ports_;
  std::vector<double> sums_;
  std::barrier<> here_;
};

/// Four MoE layers and 14 experts that are used unevenly, with four copies, on six dies, placed as if for even loads.
ShapeOptions shape_options(Stage stage, int die) {
  ShapeOptions options;
  options.model = moe::load_model_shape("deepseek-r1");
  options.model.layers = 7;
  options.model.experts = 14;
  options.model.topk = 3;
  options.model.hidden = 64;  // an expert's weights are small
  options.model.expert_ffn = 32;
  options.setup.stage = stage;
  options.setup.layout = {.dies = 6, .redundant = 4};
  options.load = emulation::zipf_load(14, 0.8);
  options.load.forecast = {std::vector<double>(14, 1.0)};
  options.seed = 5;
  options.die = die;
  options.vocabulary = 1000;
  return options;
}

/// A die of an instance that draws its steps.
struct ShapeDie {
  ShapeDie(Instance& instance, int number, RebalancingOptions options, Weights weights)
      : die(number),
        shape(shape_options(Stage::prefill, number)),
        engine(shape, std::make_unique<ShapeExperts>(shape, weights), options, instance.die(number)) {}

  /// Prompts of 100 tokens.
  StepOutcome step(int index) {
    const auto request = static_cast<RequestId>(1000 * index + die);
    const std::unique_ptr<EngineState> state = shape.make_state(100);
    const std::vector<std::int32_t> tokens(100);
    const StepWork work{request, state.get(), tokens, {}};
    return engine.step({&work, 1}, RunTime(std::chrono::milliseconds(10 * index)));
  }

  int die;
  ShapeEngine shape;
  RebalancingEngine engine;
};

/// What the slots of a placement say of one step.
double imbalance_of(const std::vector<StepOutcome>& outcomes) {
  double sum = 0;
  const std::size_t slots = 18, layers = outcomes[0].record->microbatches[0].rows.size() / slots;
  for (std::size_t layer = 0; layer < layers; ++layer) {
    std::vector<double> dies(6);
    for (const StepOutcome& outcome : outcomes)
      for (std::size_t slot = 0; slot < slots; ++slot)
        dies[slot / 3] += outcome.record->microbatches[0].rows[layer * slots + slot];
    sum += moe::max_over_mean(dies) / static_cast<double>(layers);
  }
  return sum;
}

}  // namespace

TEST_CASE("under skew an instance becomes even, within its budget, and tokens stay") {
  for (const Weights weights : {Weights::elided, Weights::there}) {
    Instance instance(6);
    // An expert has 6,144 bytes here, so it takes three steps.
    const RebalancingOptions options{
        .interval = 4, .policy = {.threshold = 1.15, .max_moves = 12}, .bytes_per_step = 2048};
    constexpr int steps = 60;
    std::vector<std::vector<StepOutcome>> outcomes(steps, std::vector<StepOutcome>(6));
    std::vector<BalanceFigures> figures(6);
    instance.run([&](int number) {
      ShapeDie die(instance, number, options, weights);
      for (int i = 0; i < steps; ++i)
        outcomes[static_cast<std::size_t>(i)][static_cast<std::size_t>(number)] = die.step(i);
      figures[static_cast<std::size_t>(number)] = die.engine.expert_balance();
    });
    CHECK(imbalance_of(outcomes.back()) < 0.8 * imbalance_of(outcomes.front()));
    for (int number = 0; number < 6; ++number) {
      ShapeEngine alone(shape_options(Stage::prefill, number));
      for (int i = 0; i < steps; ++i) {
        const StepOutcome& outcome = outcomes[static_cast<std::size_t>(i)][static_cast<std::size_t>(number)];
        CHECK(outcome.tokens == std::vector<SampledToken>{alone.token(static_cast<RequestId>(1000 * i + number), 100)});
      }
    }
    const BalanceFigures& first = figures[0];
    CHECK(first.rebalancings >= 1);
    CHECK(first.experts_moved >= 4);
    CHECK(first.experts_moved <= 12 * first.rebalancings);
    CHECK(first.bytes_moved >= first.experts_moved * 6144);
    REQUIRE(first.samples.size() == steps / 4);
    CHECK(first.samples.back().imbalance < 0.8 * first.samples.front().imbalance);
    CHECK(first.samples.front().imbalance == Approx([&] {
                                               // The sample is over four steps, whose chance is smaller than that of one.
                                               return imbalance_of(outcomes[0]);
                                             }())
                                                 .epsilon(0.15));
    CHECK(first.samples.front().tokens == 4 * 6 * 100);
    CHECK(first.samples.front().switched == 0);
    CHECK(first.samples.back().switched > 0);
    for (const BalanceFigures& other : std::span(figures).subspan(1)) {
      CHECK(other.samples.empty());
      CHECK(other.rebalancings == 0);
    }
  }
}

TEST_CASE("below the threshold nothing moves") {
  Instance instance(6);
  std::vector<BalanceFigures> figures(6);
  instance.run([&](int number) {
    ShapeDie die(instance, number, {.interval = 2, .policy = {.threshold = 6}}, Weights::there);
    for (int i = 0; i < 10; ++i) die.step(i);
    figures[static_cast<std::size_t>(number)] = die.engine.expert_balance();
  });
  CHECK(figures[0].samples.size() == 5);
  CHECK(figures[0].rebalancings == 0);
  CHECK(figures[0].bytes_moved == 0);
}

namespace {

/// Two dies with two experts each; expert 0 has all the load. Only moves that are told are looked at.
class TwoDies : public MovableExperts {
 public:
  moe::PlacementShape shape() const override { return {.experts = 4, .slots = 4, .ranks = 2}; }
  std::vector<std::vector<int>> placements() const override { return {{0, 1, 2, 3}}; }
  std::size_t expert_bytes() const override { return 8; }
  double modelled_expert_bytes() const override { return 8e6; }
  Weights weights() const override { return Weights::there; }
  void read(const moe::MovePiece&, std::span<std::byte> bytes) override {
    std::fill(bytes.begin(), bytes.end(), std::byte{1});
  }
  void stage(const moe::MovePiece& piece, std::span<const std::byte>) override { staged.insert(piece.expert); }
  void drop_staged() override {}
  void place(int, const std::vector<int>& placement) override { placed = placement; }
  double bytes_away(const emulation::DieStep&) override { return 0; }

  std::set<int> staged;
  std::vector<int> placed;
};

class HotEngine : public StepEngine {
 public:
  std::unique_ptr<EngineState> make_state(int) override { return nullptr; }
  std::size_t state_bytes_per_token() const override { return 0; }
  StepOutcome step(std::span<const StepWork>, RunTime start) override {
    StepOutcome outcome;
    outcome.record.emplace();
    outcome.record->microbatches.push_back({.rows = {8, 6, 1, 1}});
    outcome.end = start + std::chrono::milliseconds(5);
    return outcome;
  }
  void add_transfers(std::span<const emulation::ExpertTransfer> all) override {
    transfers.insert(transfers.end(), all.begin(), all.end());
  }
  std::vector<emulation::ExpertTransfer> transfers;
};

/// Die 0 of two, whose other die is the test. It decides behind its first step.
struct OneOfTwo {
  explicit OneOfTwo(double deadline_s)
      : engine(hot, std::make_unique<TwoDies>(), {.interval = 1, .policy = {.threshold = 1.5}, .bytes_per_step = 5},
               {.die = 0, .count = 2, .port = &port, .add_up = [](std::span<double>) {}, .deadline_s = deadline_s}) {}
  static std::vector<std::byte> piece(int expert, std::uint64_t first, std::size_t count) {
    ByteWriter to;
    to.put<std::int32_t>(0).put<std::int32_t>(expert).put(first);
    return to.put_raw(std::vector<std::byte>(count)).take();
  }
  void step() { engine.step({}, RunTime{}); }

  serving::test::FakePort port;
  HotEngine hot;
  RebalancingEngine engine;
};

}  // namespace

TEST_CASE("weights go out and come in piece by piece, also from a die that is a step ahead") {
  OneOfTwo dies(60);
  dies.step();
  CHECK(dies.port.sent.empty());
  // Experts 0 and 1 have 14 of 16 rows: one of them is exchanged for 2 or 3.
  dies.port.arrive(1, OneOfTwo::piece(2, 0, 5));
  dies.port.arrive(1, OneOfTwo::piece(2, 5, 3));
  dies.step();
  REQUIRE(dies.port.sent.size() == 1);
  CHECK(dies.port.sent[0].to == 1);
  CHECK(dies.port.sent[0].bytes.size() == 16 + 5);
  dies.step();
  REQUIRE(dies.port.sent.size() == 2);
  CHECK(dies.port.sent[1].bytes.size() == 16 + 3);
  REQUIRE(dies.hot.transfers.size() == 2);
  CHECK(dies.hot.transfers[0].to == 1);
  CHECK(dies.hot.transfers[0].bytes == Approx(5e6));
  CHECK(dies.hot.transfers[1].bytes == Approx(3e6));
  const BalanceFigures figures = dies.engine.expert_balance();
  CHECK(figures.experts_moved == 2);
  CHECK(figures.bytes_moved == 16);
  CHECK(figures.samples.back().step_s == Approx(0.0025));  // this die's half of the mean
}

TEST_CASE("weights that do not come, or that nobody asked for, end the run in one line") {
  OneOfTwo late(0.01);
  late.step();
  CHECK_THROWS_WITH(late.step(), Contains("die 0 of its instance: no weights of expert 2 of layer 0 from die 1"));
  OneOfTwo wrong(60);
  wrong.step();
  wrong.port.arrive(1, OneOfTwo::piece(3, 0, 5));
  wrong.port.arrive(1, OneOfTwo::piece(2, 0, 5));
  wrong.step();
  wrong.port.arrive(1, OneOfTwo::piece(2, 5, 3));
  CHECK_THROWS_WITH(wrong.step(), Contains("weights from die 1 that were not to come"));
}
