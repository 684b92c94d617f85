// The price of a step, against a simulation that knows streams, tasks and exchanges and nothing else.
#include <array>
#include <map>
#include <numeric>
#include <random>
#include <tuple>

#include "runtime/emulation/published_setup.hpp"
#include "runtime/emulation/step_time.hpp"
#include "tests/emulation/exchange_reference.hpp"
#include "tests/emulation/shipped.hpp"
#include "tests/support/catch.hpp"

using namespace supernode;
using namespace supernode::emulation;

namespace {

/// A few layers and experts; the sizes of the big model else.
ModelShape small_model() {
  ModelShape model = r1();
  model.layers = 4;
  model.dense_layers = 1;
  model.experts = 12;
  model.topk = 3;
  return model;
}

struct Instance {
  ModelShape model = small_model();
  StepSetup setup;
  std::vector<int> dies;
  std::vector<DieStep> steps;
  std::vector<ModelTime> starts;

  double late(int die) const { return starts[static_cast<std::size_t>(die)].value; }
  StepTiming price(std::vector<Timeline>* timelines = nullptr) const {
    return StepPricer(cm(), model, setup, dies).step_time(steps, starts, timelines);
  }
};

/// Dies on both sides of a node's border, uneven in everything.
Instance random_instance(Stage stage, int microbatches, int shared_dies, unsigned seed) {
  std::mt19937 random(seed);
  const auto below = [&](int n) { return static_cast<int>(random() % static_cast<unsigned>(n)); };
  Instance one;
  one.setup.stage = stage;
  one.setup.layout = {.dies = 6 + shared_dies, .shared_dies = shared_dies, .redundant = 0};
  one.setup.mtp = stage == Stage::decode && seed % 2 == 0;
  one.setup.prepared_graphs = seed % 3 != 0;
  one.setup.exchange.early_quantisation = seed % 4 != 0;
  one.setup.exchange.direct_writes = stage == Stage::decode;
  one.dies.resize(static_cast<std::size_t>(one.setup.layout.dies));
  std::iota(one.dies.begin(), one.dies.end(), 12);
  const int layers = one.setup.record_layers(one.model), slots = record_slots(one.setup.layout, one.model);
  for (int die = 0; die < one.setup.layout.dies; ++die) {
    DieStep step;
    for (int m = 0; m < microbatches; ++m) {
      MicrobatchStep part;
      const int sequences = below(5);
      for (int i = 0; i < sequences; ++i)
        stage == Stage::decode ? part.work.add(2, 100 + below(9000)) : part.work.add(50 + below(900), below(600));
      const auto tokens = static_cast<int>(part.work.tokens);
      part.rows.assign(static_cast<std::size_t>(layers * slots), 0);
      for (int layer = 0; layer < layers; ++layer) {
        std::int32_t* rows = part.rows.data() + static_cast<std::ptrdiff_t>(layer * slots);
        for (int row = 0; row < tokens * one.model.topk; ++row) ++rows[std::min(below(12), below(12))];
        for (int row = 0; row < (shared_dies > 0 ? tokens : 0); ++row) ++rows[12 + below(shared_dies)];
      }
      step.microbatches.push_back(part);
    }
    if (stage == Stage::prefill && die % 2 == 0) step.loads = {{.owner = 0, .bytes = 1e6 * below(50)}};
    one.steps.push_back(step);
    one.starts.push_back({3 + 1e-6 * below(400)});
  }
  return one;
}

/// What a die does on a stream: for as long as it says, or until an exchange has ended there.
struct Operation {
  int stream;
  double seconds;
  int after = -1;  ///< an operation of the same die
  bool exchanges = false;
  Phase phase = Phase::dispatch;
  int microbatch = 0, layer = 0;
  bool gathers = false;  ///< after `seconds` it waits for all dies, then takes `then`
  double then = 0;
  double begin = -1, end = -1;
};

/// The simulation: an operation begins when the one before it on its stream and the one that it waits for have ended.
class Simulation {
 public:
  explicit Simulation(const Instance& instance) : in_(instance), of_(instance.steps.size()) {
    for (std::size_t die = 0; die < of_.size(); ++die)
      in_.setup.stage == Stage::decode ? write_decode(die) : write_prefill(die);
  }

  std::vector<double> run() {
    for (bool moved = true; moved;) {
      moved = false;
      for (std::size_t die = 0; die < of_.size(); ++die)
        for (std::size_t i = 0; i < of_[die].size(); ++i) moved = advance(die, i) || moved;
    }
    std::vector<double> ends;
    for (std::size_t die = 0; die < of_.size(); ++die) {
      double last = in_.starts[die].value;
      for (const Operation& one : of_[die]) {
        REQUIRE(one.end >= 0);
        last = std::max(last, one.end);
      }
      ends.push_back(last);
    }
    return ends;
  }

 private:
  /// Begins or ends an operation if that can be known. All dies have the same operations in the same order.
  bool advance(std::size_t die, std::size_t i) {
    Operation& one = of_[die][i];
    if (one.end >= 0) return false;
    if (one.begin < 0) {
      double begin = in_.starts[die].value;
      for (std::size_t earlier = 0; earlier < i; ++earlier) {
        const Operation& other = of_[die][earlier];
        if (other.stream != one.stream && static_cast<int>(earlier) != one.after) continue;
        if (other.end < 0) return false;
        begin = std::max(begin, other.end);
      }
      one.begin = begin;
    }
    if (!one.exchanges && !one.gathers) {
      one.end = one.begin + one.seconds;
      return true;
    }
    double latest = 0;
    for (const auto& operations : of_) {
      if (operations[i].begin < 0) return false;
      latest = std::max(latest, operations[i].begin + operations[i].seconds);
    }
    one.end = one.gathers ? latest + one.then : exchange_end(die, i);
    return true;
  }

  double exchange_end(std::size_t die, std::size_t i) const {
    const Operation& one = of_[die][i];
    const std::size_t n = of_.size();
    const bool split = in_.setup.stage == Stage::decode && microbatches() == 2;
    const ExchangeStyle style{.phase = one.phase,
                              .ranks = static_cast<int>(n),
                              .vector_share = split ? 1.0 / 3 : 1,
                              .direct_writes = in_.setup.exchange.direct_writes};
    ExchangeCase c;
    c.dies = in_.dies;
    c.bytes.assign(n * n, 0);
    const double message = one.phase == Phase::dispatch ? dispatch_message_bytes(in_.model.hidden, in_.setup.exchange)
                                                        : combine_message_bytes(in_.model.hidden);
    for (std::size_t from = 0; from < n; ++from) {
      c.starts.push_back({of_[from][i].begin});
      for (std::size_t to = 0; to < n; ++to) {
        const double rows = one.phase == Phase::dispatch ? sent(from, to, one) : sent(to, from, one);
        c.bytes[from * n + to] = message * rows;
      }
    }
    return reference_end(cm(), style, c, die);
  }

  int microbatches() const { return static_cast<int>(in_.steps[0].microbatches.size()); }
  const MicrobatchStep& part(std::size_t die, int m) const {
    return in_.steps[die].microbatches[static_cast<std::size_t>(m)];
  }
  double rows(std::size_t die, int m, int layer, int slot) const {
    return part(die, m).rows[static_cast<std::size_t>(layer * record_slots(in_.setup.layout, in_.model) + slot)];
  }
  /// Slots 2 * die and 2 * die + 1 are the routed die's; slot 12 and what follows are those of the shared dies.
  std::vector<int> slots_of(std::size_t die) const {
    const int i = static_cast<int>(die);
    return i < 6 ? std::vector<int>{2 * i, 2 * i + 1} : std::vector<int>{12 + i - 6};
  }
  double sent(std::size_t from, std::size_t to, const Operation& one) const {
    double sum = 0;
    for (const int slot : slots_of(to)) sum += rows(from, one.microbatch, one.layer, slot);
    return sum;
  }

  double experts(std::size_t die, int m, int layer, CoreShare share) const {
    double seconds = start_time(cm(), 2).value, came = 0;
    const bool shared_die = die >= 6;
    for (const int slot : slots_of(die)) {
      double count = 0;
      for (std::size_t from = 0; from < of_.size(); ++from) count += rows(from, m, layer, slot);
      came += count;
      seconds += products(count, share);
    }
    if (in_.setup.layout.shared_dies == 0 && !shared_die) seconds += products(part(die, m).work.tokens, share);
    if (!in_.setup.exchange.early_quantisation) seconds += vector_time(cm(), came * in_.model.hidden * 3, share).value;
    if (in_.setup.stage == Stage::prefill) seconds += vector_time(cm(), came * 6 * in_.model.hidden).value;
    return seconds;
  }
  double products(double count, CoreShare share) const {
    const ModelShape& m = in_.model;
    return (gemm_time(cm(), {.m = count, .n = 2 * m.expert_ffn, .k = m.hidden}, share) +
            gemm_time(cm(), {.m = count, .n = m.hidden, .k = m.expert_ffn}, share))
        .value;
  }

  int add(std::size_t die, Operation one) {
    of_[die].push_back(one);
    return static_cast<int>(of_[die].size()) - 1;
  }
  int exchange(std::size_t die, int after, Phase phase, int m, int layer) {
    return add(die, {.stream = 1,
                     .seconds = 0,
                     .after = after,
                     .exchanges = true,
                     .phase = phase,
                     .microbatch = m,
                     .layer = layer});
  }

  void write_decode(std::size_t die) {
    const bool split = microbatches() == 2;
    const CoreShare one{split ? 2.0 / 3 : 1, split ? 2.0 / 3 : 1}, two{split ? 1.0 / 3 : 1, split ? 1.0 / 3 : 1};
    const AttentionWork all = in_.steps[die].work();
    int last = add(die, {.stream = 0,
                         .seconds = (decode_attention(cm(), in_.model, all).total() +
                                     dense_stage(cm(), in_.model, all.tokens).total())
                                        .value});
    std::vector<int> ready(static_cast<std::size_t>(microbatches()), last);
    const auto layer_of = [&](int layer) {
      for (int m = 0; m < microbatches(); ++m) {
        int& at = ready[static_cast<std::size_t>(m)];
        const AttentionWork& work = part(die, m).work;
        at =
            add(die, {.stream = 0, .seconds = decode_attention(cm(), in_.model, work, one).total().value, .after = at});
        at = add(die,
                 {.stream = 1, .seconds = gate_stage(cm(), in_.model, work.tokens, two).total().value, .after = at});
        at = exchange(die, at, Phase::dispatch, m, layer);
        at = add(die, {.stream = 1, .seconds = experts(die, m, layer, two), .after = at});
        at = exchange(die, at, Phase::combine, m, layer);
      }
    };
    for (int layer = 0; layer < 3; ++layer) layer_of(layer);
    last = add(die, {.stream = 0,
                     .seconds = decode_head(cm(), in_.model, all.tokens, Picking::sample).total().value,
                     .after = ready.back()});
    if (in_.setup.mtp) {
      last = add(die, {.stream = 0, .seconds = draft_join(cm(), in_.model, all.tokens).value, .after = last});
      ready.assign(ready.size(), last);
      layer_of(3);
      last = add(die, {.stream = 0,
                       .seconds = decode_head(cm(), in_.model, all.sequences, Picking::greedy).total().value,
                       .after = ready.back()});
    }
    if (!in_.setup.prepared_graphs)
      add(die, {.stream = 0, .seconds = (in_.setup.mtp ? 2 : 1) * 1e-6 * cm().die.graph_launch_us, .after = last});
  }

  void write_prefill(std::size_t die) {
    double bytes = 0;
    for (const PoolLoad& load : in_.steps[die].loads) bytes += load.bytes;
    const int pool =
        add(die,
            {.stream = 0,
             .seconds =
                 pool_read_time(cm(), PoolNetwork::fabric, bytes, 128 * in_.model.kv_bytes_per_layer()).total().value});
    std::vector<int> ready(static_cast<std::size_t>(microbatches()), pool);
    const auto attend = [&](int m, double more) {
      const AttentionWork& work = part(die, m).work;
      AttentionWork sum, most;
      for (std::size_t other = 0; other < of_.size(); ++other) {
        sum += part(other, m).work;
        most.tokens = std::max(most.tokens, part(other, m).work.tokens);
        most.context = std::max(most.context, part(other, m).work.context);
      }
      const double n = static_cast<double>(of_.size());
      const AttentionWork mean{sum.sequences / n, sum.tokens / n, sum.context / n, sum.attended / n};
      const PrefillAttention parts = prefill_attention(cm(), in_.model, static_cast<int>(n), work, mean, most);
      int& at = ready[static_cast<std::size_t>(m)];
      at = add(die, {.stream = 0,
                     .seconds = parts.before.total().value,
                     .after = at,
                     .gathers = true,
                     .then = (parts.between.total() + parts.after.total()).value + more});
    };
    const auto sum = [&](int m) {
      int& at = ready[static_cast<std::size_t>(m)];
      const double tokens = part(die, m).work.tokens;
      at = add(die, {.stream = 0,
                     .seconds = vector_time(cm(), (tokens * in_.model.topk + 2 * tokens) * 2 * in_.model.hidden).value,
                     .after = at});
    };
    for (int m = 0; m < microbatches(); ++m)
      attend(m, dense_stage(cm(), in_.model, part(die, m).work.tokens).total().value);
    for (int layer = 0; layer < 3; ++layer) {
      for (int m = 0; m < microbatches(); ++m) {
        if (layer > 0) sum(m);
        const double tokens = part(die, m).work.tokens;
        attend(m, (gate_stage(cm(), in_.model, tokens).total() +
                   vector_time(cm(), tokens * in_.model.topk * 2 * in_.model.hidden))
                      .value);
      }
      const auto each = [&](auto next) {
        for (int m = 0; m < microbatches(); ++m) {
          int& at = ready[static_cast<std::size_t>(m)];
          at = next(m, at);
        }
      };
      each([&](int m, int at) { return exchange(die, at, Phase::dispatch, m, layer); });
      each([&](int m, int at) { return add(die, {.stream = 0, .seconds = experts(die, m, layer, {}), .after = at}); });
      each([&](int m, int at) { return exchange(die, at, Phase::combine, m, layer); });
    }
    for (int m = 0; m < microbatches(); ++m) sum(m);
    const Gemm head{.m = in_.steps[die].work().sequences, .n = in_.model.vocabulary, .k = in_.model.hidden};
    add(die, {.stream = 0, .seconds = gemm_time(cm(), head).value, .after = ready.back()});
  }

  const Instance& in_;
  std::vector<std::vector<Operation>> of_;  ///< [dies]
};

}  // namespace

TEST_CASE("a step ends on every die when a simulation says so") {
  for (const Stage stage : {Stage::decode, Stage::prefill}) {
    for (const int microbatches : {1, 2}) {
      for (const int shared_dies : {0, 2}) {
        for (unsigned seed = 1; seed <= 6; ++seed) {
          const Instance one = random_instance(stage, microbatches, shared_dies, seed);
          const StepTiming timing = one.price();
          const std::vector<double> expected = Simulation(one).run();
          REQUIRE(timing.ends.size() == expected.size());
          for (std::size_t die = 0; die < expected.size(); ++die) {
            INFO((stage == Stage::decode ? "decode, " : "prefill, ")
                 << microbatches << " microbatches, " << shared_dies << " shared dies, seed " << seed << ", die "
                 << die);
            CHECK(timing.ends[die].value == Approx(expected[die]).epsilon(1e-10));
          }
          CHECK(timing.end().value == Approx(*std::max_element(expected.begin(), expected.end())).epsilon(1e-10));
        }
      }
    }
  }
}

TEST_CASE("the terms of a step add up to what its last die took") {
  for (const Stage stage : {Stage::decode, Stage::prefill}) {
    for (const int microbatches : {1, 2}) {
      const Instance one = random_instance(stage, microbatches, 2, 4);
      std::vector<Timeline> timelines;
      const StepTiming timing = one.price(&timelines);
      const double took = timing.end().value - one.late(timing.last);
      CHECK(timing.terms.total().value == Approx(took).epsilon(1e-9));
      CHECK(timing.exchange.total().value ==
            Approx((timing.terms.of("dispatch") + timing.terms.of("combine")).value).epsilon(1e-7));
      for (const Terms* terms : {&timing.terms, &timing.exchange})
        for (const Term& term : *terms) CHECK(term.time.value > 0);
      double exchanging = 0;
      for (const Timeline& line : timelines)
        for (const Task& task : line.tasks())
          if (std::string_view(task.name) == "dispatch" || std::string_view(task.name) == "combine")
            exchanging += task.duration.value;
      CHECK(timing.in_exchanges.value == Approx(exchanging).epsilon(1e-9));
      REQUIRE(timelines.size() == one.steps.size());
      for (std::size_t die = 0; die < timelines.size(); ++die)
        CHECK(timelines[die].end().value == Approx((timing.ends[die] - one.starts[die]).value).epsilon(1e-9));
    }
  }
}

TEST_CASE("a late die keeps all waiting, by as much as it is late") {
  Instance one = random_instance(Stage::decode, 1, 0, 5);
  for (ModelTime& start : one.starts) start = {3};
  const StepTiming together = one.price();
  one.starts[2] = {3.5};
  const StepTiming late = one.price();
  // Half a second is long behind all else, so that the others have nothing left to do but to wait.
  for (std::size_t die = 0; die < late.ends.size(); ++die) {
    CHECK(late.ends[die].value > together.ends[die].value + 0.49);
    CHECK(late.ends[die].value < together.ends[die].value + 0.501);
  }
  one.starts[2] = {3};
  // A step takes equally long whenever it is.
  for (ModelTime& start : one.starts) start = {5000};
  CHECK(one.price().end().value - 5000 == Approx(together.end().value - 3).epsilon(1e-8));
}

TEST_CASE("a hot expert delays every die of its instance") {
  const auto priced = [](std::int32_t hot) {
    Instance one = random_instance(Stage::decode, 2, 0, 7);
    for (DieStep& step : one.steps)
      for (MicrobatchStep& part : step.microbatches) std::fill(part.rows.begin(), part.rows.end(), 20);
    for (DieStep& step : one.steps)
      for (MicrobatchStep& part : step.microbatches)
        for (std::size_t row = 4; row < part.rows.size(); row += 12) part.rows[row] = hot;  // slot 4, on die 2
    return one.price();
  };
  const StepTiming even = priced(20), hot = priced(4000);
  const double more = 6 * (4000 - 20);  // rows to one slot
  const ModelTime products = routed_experts(cm(), small_model(), 1, more, {1.0 / 3, 1.0 / 3}).total();
  for (std::size_t die = 0; die < even.ends.size(); ++die)
    CHECK(hot.ends[die].value - even.ends[die].value > 3 * products.value);
  CHECK(hot.exchange.of("queue at the port") + hot.exchange.of("waiting for a sender") >
        even.exchange.of("queue at the port") + even.exchange.of("waiting for a sender"));
}

TEST_CASE("a slow die computes as many times as long, and keeps all waiting") {
  for (const Stage stage : {Stage::prefill, Stage::decode}) {
    Instance instance = random_instance(stage, 2, 0, 9);
    const StepTiming usual = instance.price();
    instance.steps[2].slowness = 3;
    const StepTiming slowed = instance.price();
    for (std::size_t die = 0; die < instance.steps.size(); ++die) {
      const double times = slowed.computing[die] / usual.computing[die];
      CHECK(times == Approx(die == 2 ? 3 : 1));
      CHECK(usual.computing[die].value > 0);
    }
    CHECK(slowed.end() > usual.end());
    // The others are not slower by more than it computes longer.
    CHECK(slowed.end() < usual.end() + 2 * usual.computing[2] + ModelTime{1e-9});
  }
}

TEST_CASE("a step of two microbatches is done as one where that ends sooner, if the instance may") {
  bool joined_one = false, kept_one = false;
  for (unsigned seed = 0; seed < 12; ++seed) {
    Instance instance = random_instance(Stage::decode, 2, 1, seed);
    // Large batches are worth two.
    if (seed % 2 == 1)
      for (DieStep& step : instance.steps)
        for (MicrobatchStep& part : step.microbatches) {
          for (int i = 0; i < 150; ++i) part.work.add(2, 4000);
          for (std::int32_t& rows : part.rows) rows += 40;
        }
    const StepTiming two = instance.price();
    Instance joined = instance;
    for (DieStep& step : joined.steps) step = step.joined();
    const StepTiming one = joined.price();
    instance.setup.joins_microbatches = true;
    std::vector<Timeline> timelines;
    const StepTiming chosen = instance.price(&timelines);
    INFO("seed " << seed << ": one " << one.end().us() << " us, two " << two.end().us() << " us");
    CHECK(two.microbatches == 2);
    CHECK(chosen.microbatches == (one.end() < two.end() ? 1 : 2));
    CHECK(chosen.ends == (chosen.microbatches == 1 ? one : two).ends);
    CHECK(timelines.size() == instance.steps.size());
    (chosen.microbatches == 1 ? joined_one : kept_one) = true;
  }
  CHECK(joined_one);
  CHECK(kept_one);
}

TEST_CASE("uniform stages are the sums that they always were") {
  for (const int microbatches : {1, 2}) {
    DecodeSetup setup = published_decode(96, 4096);
    setup.microbatches = microbatches;
    const DecodeResult r = decode_iteration(cm(), r1(), setup);
    const AttentionWork all{.sequences = 48, .tokens = 96, .context = 48 * 4096, .attended = 96 * 4096};
    const double dense = (decode_attention(cm(), r1(), all).total() + dense_stage(cm(), r1(), 96).total()).value;
    const double fill = microbatches == 2 ? std::min(r.attention_stream, r.moe_stream).value : 0;
    const double head = decode_head(cm(), r1(), 96, Picking::sample).total().value;
    const double draft = draft_join(cm(), r1(), 96).value + r.layer.value + fill +
                         decode_head(cm(), r1(), 48, Picking::greedy).total().value;
    CHECK(r.iteration.value == Approx(3 * dense + 58 * r.layer.value + fill + head + draft).epsilon(1e-12));
  }
}

TEST_CASE("a record that does not fit its instance is refused") {
  const Instance good = random_instance(Stage::decode, 2, 0, 2);
  Instance bad = good;
  bad.steps.pop_back();
  CHECK_THROWS_WITH(bad.price(), Catch::Contains("5 dies and 6 starts for an instance of 6"));
  bad = good;
  bad.steps[1].microbatches[1].rows.pop_back();
  CHECK_THROWS_WITH(bad.price(), Catch::Contains("47 rows by layer and slot where 48 belong"));
  bad = good;
  bad.steps[1].microbatches.pop_back();
  CHECK_THROWS_WITH(bad.price(), Catch::Contains("different numbers of microbatches"));
  bad = good;
  for (DieStep& step : bad.steps) step.microbatches.clear();
  CHECK_THROWS_WITH(bad.price(), Catch::Contains("0 microbatches"));
  CHECK_THROWS_AS(StepPricer(cm(), good.model, good.setup, std::vector<int>{0, 1}), std::invalid_argument);
}
