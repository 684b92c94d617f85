// Whole exchanges of a group against one rank's view of each.
#include "runtime/emulation/exchange_group.hpp"

#include <numeric>
#include <random>

#include "tests/emulation/shipped.hpp"
#include "tests/support/catch.hpp"

using namespace supernode;
using namespace supernode::emulation;

namespace {

struct Case {
  std::vector<int> dies;
  std::vector<std::int32_t> rows;
  std::vector<ModelTime> starts;
};

/// What departure_of() and completion_of() make of it.
std::vector<Completion> one_by_one(const ExchangeStyle& style, const Case& c, double row_bytes) {
  const std::size_t n = c.dies.size();
  std::vector<Departure> departures;
  for (std::size_t i = 0; i < n; ++i) {
    std::vector<double> row(n);
    for (std::size_t j = 0; j < n; ++j) row[j] = row_bytes * c.rows[i * n + j];
    departures.push_back(departure_of(cm(), style, row, c.dies, static_cast<int>(i), c.starts[i]));
  }
  std::vector<Completion> all;
  for (std::size_t to = 0; to < n; ++to) {
    std::vector<Arrival> arrivals;
    for (std::size_t from = 0; from < n; ++from)
      arrivals.push_back({c.dies[from], row_bytes * c.rows[from * n + to], departures[from]});
    all.push_back(completion_of(cm(), style, arrivals, c.dies[to], c.starts[to]));
  }
  return all;
}

}  // namespace

TEST_CASE("a group's exchange ends for each rank when its own view says so") {
  std::mt19937 random(7);
  for (int round = 0; round < 60; ++round) {
    const std::size_t n = std::vector<std::size_t>{1, 2, 3, 16, 17, 40}[static_cast<std::size_t>(round % 6)];
    Case c;
    c.dies.resize(n);
    // Successive dies that begin anywhere in a node, or dies all over the machine.
    if (round % 4 < 3) {
      std::iota(c.dies.begin(), c.dies.end(), round % 16);
    } else {
      std::vector<int> all(static_cast<std::size_t>(cm().dies()));
      std::iota(all.begin(), all.end(), 0);
      std::shuffle(all.begin(), all.end(), random);
      std::copy_n(all.begin(), n, c.dies.begin());
    }
    const int most = round % 3 == 0 ? 2 : 60;
    for (std::size_t i = 0; i < n * n; ++i)
      c.rows.push_back(random() % 3 ? static_cast<std::int32_t>(random()) % most : 0);
    for (std::int32_t& rows : c.rows) rows = std::abs(rows);
    // All at once; a little apart; so far apart that some have ended before others begin; long after the clock began.
    const double apart = std::vector<double>{0, 5e-6, 200e-6}[static_cast<std::size_t>(round % 3)];
    const double since = round % 5 == 0 ? 5000 : 0;
    std::uniform_real_distribution<double> late(0, apart);
    for (std::size_t i = 0; i < n; ++i) c.starts.push_back({since + late(random)});
    for (const Phase phase : {Phase::dispatch, Phase::combine}) {
      for (const bool direct : {true, false}) {
        const ExchangeStyle style{.phase = phase,
                                  .ranks = static_cast<int>(n),
                                  .vector_share = round % 2 ? 1 : 1.0 / 3,
                                  .direct_writes = direct};
        ExchangeGroup group(cm(), c.dies);
        std::vector<ModelTime> ends(n);
        group.completions(style, c.rows, 7680, c.starts, ends);
        const std::vector<Completion> expected = one_by_one(style, c, 7680);
        for (std::size_t i = 0; i < n; ++i) {
          INFO("round " << round << ", " << n << " ranks, rank " << i);
          // completion_of() takes points in time as one that differ by less than 1e-12 of the clock.
          CHECK(ends[i].value - c.starts[i].value ==
                Approx(expected[i].end.value - c.starts[i].value).epsilon(1e-9).margin(since > 0 ? 1e-8 : 0));
          if (i > 2) continue;
          const Completion one = group.completion(style, c.rows, 7680, c.starts, static_cast<int>(i));
          CHECK(one.end.value == Approx(expected[i].end.value).epsilon(1e-12));
          CHECK(one.terms.total().value == Approx(expected[i].terms.total().value).epsilon(1e-6));
        }
      }
    }
  }
}
