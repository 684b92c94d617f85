// What the coordinator's loop costs, by a clock of the test's own.
#include "runtime/serving/coordinator/loop_times.hpp"

#include "tests/serving/test_clock.hpp"
#include "tests/support/catch.hpp"

using namespace supernode;
using namespace supernode::serving;
using namespace supernode::serving::test;

namespace {

Command iteration(int instance, std::size_t requests) {
  return StartStep{{emulation::Stage::decode, instance}, {std::vector<Work>(requests), {}}};
}

/// An event at `at` whose orders are out `cost` seconds later.
void pass(LoopTimes& times, double at, double cost, const Event& event, const std::vector<Command>& commands) {
  test_now_s = at;
  times.taken();
  test_now_s = at + cost;
  times.ordered(event, commands);
}

}  // namespace

TEST_CASE("an iteration counts when the report that ends it leads to the next one") {
  LoopTimes times(test_clock);
  CHECK(times.figures().iterations == 0);
  CHECK(times.figures().share() == 0);
  const Event report{RunTime{}, DecodeReported{{0, 0}, {}, {}}}, other{RunTime{}, DecodeReported{{1, 0}, {}, {}}};
  pass(times, 10, 1, {RunTime{}, KvArrived{}}, {iteration(0, 4)});
  pass(times, 15, 1, report, {});  // of the first die
  pass(times, 20, 1, report, {iteration(0, 6), iteration(1, 1)});
  pass(times, 25, 1, other, {DropState{}});  // and now this instance has a pause
  pass(times, 41, 2, report, {iteration(0, 8)});
  pass(times, 50, 0, {RunTime{}, KvArrived{}}, {iteration(1, 3)});
  const CoordinatorFigures figures = times.figures();
  CHECK(figures.iterations == 2);
  CHECK(figures.requests == 5);        // of 4 and 6
  CHECK(figures.iteration_s == 14.5);  // of 9 and 20
  CHECK(figures.turnaround_s == 1.5);  // of 1 and 2
  CHECK(figures.share() == 1.5 / 16);
  CHECK(figures.event_s == 1);
}
