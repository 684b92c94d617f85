#include "runtime/emulation/exchange.hpp"

#include <algorithm>
#include <array>
#include <numeric>
#include <random>
#include <vector>

#include "runtime/emulation/machine/exchange_rates.hpp"
#include "runtime/emulation/machine/links.hpp"
#include "tests/emulation/exchange_reference.hpp"
#include "tests/emulation/shipped.hpp"
#include "tests/support/catch.hpp"

using namespace supernode;
using namespace supernode::emulation;

namespace {

/// Without the parts that do not depend on bytes.
Machine wire_only() {
  Machine machine = cm();
  for (const char* key :
       {"exchange.dispatch_start_us", "exchange.combine_start_us", "exchange.skew_us", "exchange.staged_start_us"})
    set(machine, key, 0);
  return machine;
}

using Case = ExchangeCase;

Case random_case(std::size_t ranks, unsigned seed) {
  std::mt19937 random(seed);
  std::uniform_real_distribution<double> size(0, 1e6), late(0, 100e-6);
  Case c;
  c.dies.resize(ranks);
  std::iota(c.dies.begin(), c.dies.end(), 3);
  for (std::size_t i = 0; i < ranks * ranks; ++i) c.bytes.push_back(random() % 4 ? size(random) : 0);
  for (std::size_t i = 0; i < ranks; ++i) c.starts.push_back({late(random)});
  return c;
}

}  // namespace

TEST_CASE("every rank ends when a forward simulation says, and its terms add up to that") {
  for (const Phase phase : {Phase::dispatch, Phase::combine}) {
    for (const std::size_t ranks : {1u, 2u, 5u, 24u}) {
      const Case c = random_case(ranks, static_cast<unsigned>(ranks));
      const ExchangeStyle style{.phase = phase,
                                .ranks = static_cast<int>(ranks),
                                .vector_share = ranks == 5 ? 0.2 : 0.5,
                                .direct_writes = ranks % 2 == 0};
      const auto whole = exchange_times(cm(), style, c.bytes, c.dies, c.starts);
      // As a running rank does it: what its peers tell it, in the order of their arrival, empty messages not sent.
      for (std::size_t me = 0; me < ranks; ++me) {
        INFO(name_of(phase) << " " << ranks << " ranks, rank " << me);
        std::vector<Arrival> arrivals;
        for (std::size_t from = ranks; from-- > 0;) {
          const std::span<const double> row(&c.bytes[from * ranks], ranks);
          const Departure departure = departure_of(cm(), style, row, c.dies, static_cast<int>(from), c.starts[from]);
          if (row[me] > 0) arrivals.push_back({c.dies[from], row[me], departure});
        }
        const Completion mine = completion_of(cm(), style, arrivals, c.dies[me], c.starts[me]);
        CHECK(mine.end.value == Approx(reference_end(cm(), style, c, me)).epsilon(1e-10));
        CHECK(whole[me].value == Approx(mine.end.value).epsilon(1e-12));
        CHECK((c.starts[me] + mine.terms.total()).value == Approx(mine.end.value).epsilon(1e-11));
        for (const Term& term : mine.terms) CHECK(term.time.value > 0);
      }
    }
  }
}

TEST_CASE("each term of an exchange has the length of what it names") {
  // Eight dies of one node, 1 MB to each: six of them over the fabric, one in the package, one at home.
  const Machine& m = cm();
  constexpr double kEach = 1e6;
  const double port = 196e9 * m.fabric.write_efficiency, memory = 1600e9 * m.die.memory_efficiency;
  const Terms even = exchange_time(m, {.phase = Phase::dispatch, .ranks = 8}, 8 * kEach);
  CHECK(even.of("start-up").us() == Approx(m.exchange.dispatch_start_us));
  CHECK(even.of("fabric link").value == Approx(6 * kEach / port));
  CHECK(even.of("latency").us() == Approx(m.fabric.write_us));
  CHECK(even.of("queue at the port").value == 0);
  CHECK(even.of("latest peer").us() == Approx(m.exchange.skew_us * (761 / 280.0)));
  CHECK(even.of("rows in local memory").value == Approx(2 * 8 * kEach / memory));
  CHECK(std::distance(even.begin(), even.end()) == 5);
  // Three times as much into one die: its port is the narrow place, and no longer a sender.
  const Terms hot = exchange_time(m, {.phase = Phase::dispatch, .ranks = 8}, 8 * kEach, 1, 3);
  CHECK(hot.of("fabric link").value == 0);
  CHECK(hot.of("queue at the port").value == Approx(6 * 3 * kEach / port));
  CHECK(hot.of("rows in local memory").value == Approx(2 * 3 * 8 * kEach / memory));
  // Three times as much out of one die in combine: that sender is the narrow place.
  const Terms out = exchange_time(m, {.phase = Phase::combine, .ranks = 8}, 8 * kEach, 3, 1);
  CHECK(out.of("start-up").us() == Approx(m.exchange.combine_start_us));
  CHECK(out.of("fabric link").value == Approx(6 * 3 * kEach / port));
  CHECK(out.of("latest peer").value == 0);
  CHECK(out.of("rows in local memory").value == Approx((8 + 2) * kEach / memory));
  // Through the copy engine, counts go first.
  const Terms staged = exchange_time(m, {.phase = Phase::dispatch, .ranks = 8, .direct_writes = false}, 8 * kEach);
  CHECK(staged.of("exchange of counts").us() ==
        Approx(m.exchange.staged_start_us + m.exchange.skew_us * (761 / 280.0)));
  CHECK(staged.total().value == Approx((even.total() + staged.of("exchange of counts")).value));
  // A peer that starts a millisecond late is waited for.
  const std::vector<int> dies{0, 2};
  const std::vector<double> row{kEach, 0};
  const ExchangeStyle style{.phase = Phase::combine, .ranks = 2};
  const Arrival late{.from = 2, .bytes = kEach, .departure = departure_of(m, style, row, dies, 1, {1e-3})};
  const Terms waiting = completion_of(m, style, std::span(&late, 1), 0, {}).terms;
  CHECK(waiting.of("waiting for a sender").us() == Approx(1000));
  CHECK(waiting.of("fabric link").value == Approx(kEach / port));
}

TEST_CASE("the short form for even traffic equals the whole matrix") {
  for (const Phase phase : {Phase::dispatch, Phase::combine}) {
    for (const int ranks : {1, 8, 32}) {
      const auto n = static_cast<std::size_t>(ranks);
      const ExchangeStyle style{.phase = phase, .ranks = ranks};
      std::vector<int> dies(n);
      std::iota(dies.begin(), dies.end(), 0);
      const std::vector<double> bytes(n * n, 1e5);
      const auto whole = exchange_times(cm(), style, bytes, dies, std::vector<ModelTime>(n));
      CHECK(exchange_time(cm(), style, 1e5 * ranks).total().value ==
            Approx(std::max_element(whole.begin(), whole.end())->value).epsilon(1e-9));
      if (ranks < 3) continue;
      // One hot receiver, one hot sender. The short form looks at senders that are usual ones in all their bytes.
      auto hot = bytes;
      for (std::size_t i = 0; i < n; ++i) hot[i * n] *= 3;
      const auto in = exchange_times(cm(), style, hot, dies, std::vector<ModelTime>(n));
      CHECK(exchange_time(cm(), style, 1e5 * ranks, 1, 3).total().value ==
            Approx(std::max_element(in.begin(), in.end())->value).epsilon(0.02));
      hot = bytes;
      for (std::size_t i = 0; i < n; ++i) hot[(n - 1) * n + i] *= 3;
      const auto out = exchange_times(cm(), style, hot, dies, std::vector<ModelTime>(n));
      CHECK(exchange_time(cm(), style, 1e5 * ranks, 3, 1).total().value ==
            Approx(std::max_element(out.begin(), out.end())->value).epsilon(0.02));
    }
  }
}

TEST_CASE("eight into one costs seven to nine times a balanced exchange of the same bytes") {
  constexpr std::size_t kRanks = 9;
  constexpr double kBytes = 64e6;  // of each sender, so that start-up is small beside the wire
  // One die a package, so that all traffic crosses the fabric.
  std::vector<int> dies;
  for (int i = 0; i < static_cast<int>(kRanks); ++i) dies.push_back(2 * i);
  for (const Phase phase : {Phase::dispatch, Phase::combine}) {
    for (const Machine& machine : {cm(), wire_only()}) {
      const ExchangeStyle style{.phase = phase, .ranks = kRanks};
      std::vector<double> balanced(kRanks * kRanks, kBytes / (kRanks - 1)), incast(kRanks * kRanks, 0);
      for (std::size_t i = 0; i < kRanks; ++i) balanced[i * kRanks + i] = 0;
      for (std::size_t i = 1; i < kRanks; ++i) incast[i * kRanks] = kBytes;
      const std::vector<ModelTime> starts(kRanks);
      const auto even = exchange_times(machine, style, balanced, dies, starts);
      const auto hot = exchange_times(machine, style, incast, dies, starts);
      const double ratio = *std::max_element(hot.begin(), hot.end()) / *std::max_element(even.begin(), even.end());
      INFO("phase " << static_cast<int>(phase) << " start " << machine.exchange.dispatch_start_us);
      CHECK(ratio > 7);
      CHECK(ratio < 9);
    }
  }
}

TEST_CASE("exchange grows with bytes, without jumps; nothing costs the start-up") {
  const ExchangeStyle style{.phase = Phase::combine, .ranks = 32};
  CHECK(exchange_time(cm(), style, 0).total().us() == Approx(cm().exchange.combine_start_us));
  const ExchangeStyle dispatch{.phase = Phase::dispatch, .ranks = 32};
  CHECK(exchange_time(cm(), dispatch, 0).total().us() ==
        Approx(cm().exchange.dispatch_start_us + cm().exchange.skew_us * harmonic(32)));
  double last = exchange_time(cm(), style, 1).total().value;
  for (double bytes = 10; bytes < 1e10; bytes *= 1.5) {
    const double here = exchange_time(cm(), style, bytes).total().value;
    CHECK(here >= last);
    CHECK(exchange_time(cm(), style, bytes * (1 + 1e-7)).total().value - here <= 1e-4 * here);
    last = here;
  }
}

TEST_CASE("limits of the exchange") {
  // One rank: only its own memory.
  const Machine wire = wire_only();
  const ExchangeStyle alone{.phase = Phase::combine, .ranks = 1};
  const double rate = wire.die.memory_gbps * 1e9 * wire.die.memory_efficiency;
  CHECK(exchange_time(wire, alone, 1e9).total().value == Approx(2e9 / rate));
  // Infinite bandwidth: only latency is left.
  Machine fast = wire;
  for (const char* key : {"fabric.lane_gbps", "fabric.die_to_die_gbps", "die.memory_gbps"}) set(fast, key, 1e6);
  const ExchangeStyle style{.phase = Phase::combine, .ranks = 8};
  CHECK(exchange_time(fast, style, 1e3).total().us() == Approx(fast.fabric.write_us).epsilon(0.01));
  // Fewer vector cores than fill the link send more slowly; enough of them do not.
  CHECK(exchange_time(wire, {.phase = Phase::combine, .ranks = 8, .vector_share = 16.0 / 48}, 1e8).total().value ==
        Approx(exchange_time(wire, {.phase = Phase::combine, .ranks = 8}, 1e8).total().value));
  // Half of them take twice as long to send.
  const Terms few = exchange_time(wire, {.phase = Phase::combine, .ranks = 8, .vector_share = 8.0 / 48}, 1e8);
  const Terms enough = exchange_time(wire, {.phase = Phase::combine, .ranks = 8}, 1e8);
  CHECK(few.of("fabric link").value == Approx(2 * enough.of("fabric link").value));
  CHECK(harmonic(1) == 1);
  CHECK(harmonic(4) == Approx(25 / 12.0));
}

TEST_CASE("a late sender delays whom it sends to, and nobody else of a combine") {
  const ExchangeStyle style{.phase = Phase::combine, .ranks = 4};
  const std::vector<int> dies{0, 2, 4, 6};
  std::vector<double> bytes(16, 0);
  bytes[0 * 4 + 1] = bytes[2 * 4 + 3] = 1e6;
  std::vector<ModelTime> starts(4);
  const auto punctual = exchange_times(cm(), style, bytes, dies, starts);
  starts[0] = {1e-3};
  const auto late = exchange_times(cm(), style, bytes, dies, starts);
  CHECK((late[1] - punctual[1]).value == Approx(1e-3));
  CHECK(late[3] == punctual[3]);
}
