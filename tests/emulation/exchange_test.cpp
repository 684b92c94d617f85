#include "runtime/emulation/exchange.hpp"

#include <algorithm>
#include <numeric>
#include <random>
#include <vector>

#include "runtime/emulation/machine/links.hpp"
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

struct Case {
  std::vector<double> bytes;
  std::vector<int> dies;
  std::vector<ModelTime> starts;
};

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

TEST_CASE("the whole machine at once equals every rank for itself") {
  for (const Phase phase : {Phase::dispatch, Phase::combine}) {
    for (const std::size_t ranks : {1u, 2u, 5u, 24u}) {
      const Case c = random_case(ranks, static_cast<unsigned>(ranks));
      const ExchangeStyle style{phase, static_cast<int>(ranks), 0.5, ranks % 2 == 0};
      const auto whole = exchange_times(cm(), style, c.bytes, c.dies, c.starts);
      // As a running rank does it: what its peers tell it, in the order of their arrival, empty messages not sent.
      for (std::size_t me = 0; me < ranks; ++me) {
        std::vector<Arrival> arrivals;
        for (std::size_t from = ranks; from-- > 0;) {
          const std::span<const double> row(&c.bytes[from * ranks], ranks);
          const Departure departure = departure_of(cm(), style, row, c.dies, static_cast<int>(from), c.starts[from]);
          if (row[me] > 0) arrivals.push_back({c.dies[from], row[me], departure});
        }
        const ModelTime mine = completion_of(cm(), style, arrivals, c.dies[me], c.starts[me]);
        CHECK(mine.value == Approx(whole[me].value).epsilon(1e-12));
      }
    }
  }
}

TEST_CASE("the short form for even traffic equals the whole matrix") {
  for (const Phase phase : {Phase::dispatch, Phase::combine}) {
    for (const int ranks : {1, 8, 32}) {
      const auto n = static_cast<std::size_t>(ranks);
      const ExchangeStyle style{phase, ranks, 1, true};
      std::vector<int> dies(n);
      std::iota(dies.begin(), dies.end(), 0);
      const std::vector<double> bytes(n * n, 1e5);
      const auto whole = exchange_times(cm(), style, bytes, dies, std::vector<ModelTime>(n));
      CHECK(exchange_time(cm(), style, 1e5 * ranks).value ==
            Approx(std::max_element(whole.begin(), whole.end())->value).epsilon(1e-9));
      if (ranks < 3) continue;
      // One hot receiver; one hot sender.
      auto hot = bytes;
      for (std::size_t i = 0; i < n; ++i) hot[i * n] *= 3;
      const auto in = exchange_times(cm(), style, hot, dies, std::vector<ModelTime>(n));
      CHECK(exchange_time(cm(), style, 1e5 * ranks, 1, 3).value ==
            Approx(std::max_element(in.begin(), in.end())->value).epsilon(0.03));
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
      const ExchangeStyle style{phase, kRanks, 1, true};
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
  const ExchangeStyle style{Phase::combine, 32, 1, true};
  CHECK(exchange_time(cm(), style, 0).us() == Approx(cm().exchange.combine_start_us));
  const ExchangeStyle dispatch{Phase::dispatch, 32, 1, true};
  CHECK(exchange_time(cm(), dispatch, 0).us() ==
        Approx(cm().exchange.dispatch_start_us + cm().exchange.skew_us * harmonic(32)));
  double last = exchange_time(cm(), style, 1).value;
  for (double bytes = 10; bytes < 1e10; bytes *= 1.5) {
    const double here = exchange_time(cm(), style, bytes).value;
    CHECK(here >= last);
    CHECK(exchange_time(cm(), style, bytes * (1 + 1e-7)).value - here <= 1e-4 * here);
    last = here;
  }
}

TEST_CASE("limits of the exchange") {
  // One rank: only its own memory.
  const Machine wire = wire_only();
  const ExchangeStyle alone{Phase::combine, 1, 1, true};
  const double rate = wire.die.memory_gbps * 1e9 * wire.die.memory_efficiency;
  CHECK(exchange_time(wire, alone, 1e9).value == Approx(2e9 / rate));
  // Infinite bandwidth: only latency is left.
  Machine fast = wire;
  for (const char* key : {"fabric.lane_gbps", "fabric.die_to_die_gbps", "die.memory_gbps"}) set(fast, key, 1e6);
  const ExchangeStyle style{Phase::combine, 8, 1, true};
  CHECK(exchange_time(fast, style, 1e3).us() == Approx(fast.fabric.write_us).epsilon(0.01));
  // Fewer vector cores than fill the link send more slowly; enough of them do not.
  CHECK(exchange_time(wire, {Phase::combine, 8, 16.0 / 48, true}, 1e8).value ==
        Approx(exchange_time(wire, {Phase::combine, 8, 1, true}, 1e8).value));
  CHECK(exchange_time(wire, {Phase::combine, 8, 8.0 / 48, true}, 1e8) >
        exchange_time(wire, {Phase::combine, 8, 1, true}, 1e8));
  // The copy engine costs more.
  CHECK(exchange_time(cm(), {Phase::dispatch, 8, 1, false}, 1e6) >
        exchange_time(cm(), {Phase::dispatch, 8, 1, true}, 1e6));
  CHECK(harmonic(1) == 1);
  CHECK(harmonic(4) == Approx(25 / 12.0));
}

TEST_CASE("a late sender delays whom it sends to, and nobody else of a combine") {
  const ExchangeStyle style{Phase::combine, 4, 1, true};
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
