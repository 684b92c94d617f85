// Terms, and tasks on streams.
#include "runtime/emulation/machine/streams.hpp"

#include <random>
#include <stdexcept>
#include <vector>

#include "runtime/core/json.hpp"
#include "runtime/emulation/machine/terms.hpp"
#include "tests/support/catch.hpp"

using namespace supernode;
using namespace supernode::emulation;

TEST_CASE("terms add up, and are found by name") {
  Terms terms;
  CHECK(terms.total().value == 0);
  CHECK(std::string(terms.longest().name).empty());
  terms.add("a", {1});
  terms.add("b", {4});
  terms.add("a", {2});
  CHECK(terms.total().value == 7);
  CHECK(terms.of("a").value == 3);
  CHECK(terms.of("c").value == 0);
  CHECK(std::string(terms.longest().name) == "b");
  Terms more;
  more.add("c", {8});
  terms.add(more);
  terms.lengthen("b", {1});
  terms.lengthen("d", {16});
  CHECK(terms.of("b").value == 5);
  CHECK(terms.total().value == 7 + 8 + 1 + 16);
  CHECK(std::distance(terms.begin(), terms.end()) == 5);
}

TEST_CASE("a timeline keeps streams in order and waits for events") {
  Timeline line({"a", "b"});
  const int first = line.add("first", 0, {2});
  const int second = line.add("second", 1, {1}, {first});
  const int third = line.add("third", 0, {3});
  const int fourth = line.add("fourth", 1, {1}, {third, second});
  CHECK(line.tasks()[static_cast<std::size_t>(second)].begin.value == 2);
  CHECK(line.tasks()[static_cast<std::size_t>(third)].begin.value == 2);
  CHECK(line.tasks()[static_cast<std::size_t>(fourth)].begin.value == 5);
  CHECK(line.end().value == 6);
  CHECK(line.busy(0).value == 5);
  CHECK_THROWS_AS(line.add("x", 2, {1}), std::invalid_argument);
  CHECK_THROWS_AS(line.add("x", 0, {1}, {9}), std::invalid_argument);
  const Json trace = parse_json(chrome_trace({{"die", &line}}), "trace");
  REQUIRE(trace["traceEvents"].size() == 3 + 4);
  CHECK(trace["traceEvents"][4]["name"] == "second");
  CHECK(trace["traceEvents"][4]["ts"] == 2e6);
  CHECK(trace["traceEvents"][4]["dur"] == 1e6);
  CHECK(trace["traceEvents"][4]["tid"] == 1);
}

TEST_CASE("the critical path names what the end waits for") {
  Timeline line({"a", "b"});
  CHECK(line.critical_path().total().value == 0);
  const int first = line.add("first", 0, {2});
  const int second = line.add("second", 1, {5}, {first});
  line.add("hidden", 0, {3});
  line.add("last", 0, {1}, {second});
  // first, second, last: 8 s; "hidden" ran beside "second".
  const Terms path = line.critical_path();
  CHECK(path.of("first").value == 2);
  CHECK(path.of("second").value == 5);
  CHECK(path.of("last").value == 1);
  CHECK(path.of("hidden").value == 0);
  CHECK(line.end().value == 8);
}

TEST_CASE("the critical path of any schedule is as long as the schedule") {
  std::mt19937 random(7);
  for (int trial = 0; trial < 100; ++trial) {
    Timeline line({"a", "b", "c"});
    for (int task = 0; task < 40; ++task) {
      std::vector<int> after;
      for (int earlier = 0; earlier < task; ++earlier)
        if (random() % 16 == 0) after.push_back(earlier);
      line.add(task % 2 ? "odd" : "even", static_cast<int>(random() % 3), {static_cast<double>(random() % 100)}, after);
    }
    CHECK(line.critical_path().total().value == line.end().value);  // sums of whole numbers are exact
  }
}
