#include "runtime/emulation/machine/machine.hpp"

#include <cstdlib>
#include <set>

#include <fmt/format.h>

#include "runtime/core/config_path.hpp"
#include "runtime/core/error.hpp"
#include "runtime/core/files.hpp"
#include "tests/support/catch.hpp"

using namespace supernode;
using namespace supernode::emulation;
using Catch::Matchers::Contains;

namespace {

std::string shipped(const std::string& name) { return read_file(config_path("machines", name, ".ini")); }

/// `text` with the line that begins with `key =` replaced.
std::string with_line(std::string text, const std::string& key, const std::string& line) {
  const auto at = text.find("\n" + key + " =");
  REQUIRE(at != std::string::npos);
  const auto end = text.find('\n', at + 1);
  return text.replace(at + 1, end - at - 1, line);
}

}  // namespace

TEST_CASE("the machine files that ship can be read") {
  for (const char* name : {"cloudmatrix384", "h800", "laptop", "template"}) {
    const Machine machine = load_machine(name);
    CHECK(machine.name == name);
    CHECK(machine.dies() > 0);
  }
  const Machine cm = load_machine("cloudmatrix384");
  CHECK(cm.dies() == 768);
  CHECK(cm.fabric_gbps() == Approx(196));
}

TEST_CASE("a machine as text is read back as it was") {
  Machine machine = load_machine("cloudmatrix384");
  machine.name = "with a name of several words";
  machine.fabric.lane_gbps = 1.0 / 3;
  const Machine back = parse_machine(to_text(machine), "text");
  CHECK(back.name == machine.name);
  for (const MachineKey& key : machine_keys()) {
    const std::string name = fmt::format("{}.{}", key.section, key.key);
    INFO(name);
    CHECK(get(back, name) == get(machine, name));
  }
}

TEST_CASE("a die has one place, and places cover the machine") {
  const Machine cm = load_machine("cloudmatrix384");
  std::set<std::pair<int, int>> npus;
  for (int die = 0; die < cm.dies(); ++die) {
    const DiePlace place = place_of(cm, die);
    CHECK((place.node * cm.npus_per_node + place.npu_in_node) * cm.dies_per_npu + place.die_in_npu == die);
    npus.insert({place.node, place.npu_in_node});
  }
  CHECK(npus.size() == 384);
  CHECK(place_of(cm, 767).first_switch == 47 * 7);
  CHECK_THROWS_AS(place_of(cm, 768), std::invalid_argument);
  CHECK_THROWS_AS(place_of(cm, -1), std::invalid_argument);
  CHECK(hops(cm, 0, 1) == 0);
  CHECK(hops(cm, 0, 2) == 1);
  CHECK(hops(cm, 0, 15) == 1);
  CHECK(hops(cm, 0, 16) == 2);
}

TEST_CASE("a bad machine file is refused with key, value and line") {
  const std::string good = shipped("template");
  struct Case {
    std::string text, message;
  };
  const auto line_of = [&](const std::string& key) {
    return 1 + std::count(good.begin(), good.begin() + static_cast<long>(good.find("\n" + key + " =")) + 1, '\n');
  };
  const auto place = [&](const std::string& key) { return fmt::format("m.ini:{}: ", line_of(key)); };
  const Case cases[] = {
      {with_line(good, "lane_gbps", "lane_gbps = -28"), place("lane_gbps") + "[fabric] lane_gbps = -28: outside"},
      {with_line(good, "lane_gbps", "lane_gbps = nan"), place("lane_gbps") + "[fabric] lane_gbps = nan: not a finite"},
      {with_line(good, "memory_gb", "memory_gb = 1e300"), place("memory_gb") + "[die] memory_gb = 1e300: outside"},
      {with_line(good, "nodes", "nodes = 0"), place("nodes") + "[machine] nodes = 0: outside"},
      {with_line(good, "nodes", "nodes = 1.5"), place("nodes") + "[machine] nodes = 1.5: not a whole number"},
      {with_line(good, "nodes", "nodes = many"), place("nodes") + "[machine] nodes = many: not a finite number"},
      {with_line(good, "nodes", "nods = 48"), place("nodes") + "[machine] nods = 48: unknown key"},
      {with_line(good, "nodes", ""), "m.ini: [machine] nodes is missing"},
      {with_line(good, "name", "name ="), "the machine needs a name"},
      {with_line(good, "nodes", "nodes = 1000000"), "dies, more than"},
      {"", "m.ini: [machine] name is missing"},
  };
  for (const Case& one : cases) CHECK_THROWS_WITH(parse_machine(one.text, "m.ini"), Contains(one.message));
  CHECK_THROWS_AS(parse_machine(cases[0].text, "m.ini"), UsageError);
}

TEST_CASE("the template explains every key") {
  const std::string text = shipped("template");
  for (const MachineKey& key : machine_keys()) {
    INFO(key.section << "." << key.key);
    const auto at = text.find(fmt::format("\n{} =", key.key));
    REQUIRE(at != std::string::npos);
    CHECK(text.substr(at + 1, text.find('\n', at + 1) - at).find(" # ") != std::string::npos);
  }
}

TEST_CASE("numbers are reached by name") {
  Machine machine = load_machine("template");
  set(machine, "fabric.planes", 3);
  CHECK(machine.fabric.planes == 3);
  CHECK(get(machine, "fabric.planes") == 3);
  // Every key reaches a number of its own: none overwrites what another one set.
  const auto name = [](const MachineKey& key) { return fmt::format("{}.{}", key.section, key.key); };
  const auto value = [](std::size_t i) {
    const MachineKey& key = machine_keys()[i];
    const double part = 0.001 * static_cast<double>(1 + i);
    return key.whole ? static_cast<double>(1 + i) : key.low + part * (key.high - key.low);
  };
  for (std::size_t i = 0; i < machine_keys().size(); ++i) set(machine, name(machine_keys()[i]), value(i));
  for (std::size_t i = 0; i < machine_keys().size(); ++i) {
    INFO(name(machine_keys()[i]));
    CHECK(get(machine, name(machine_keys()[i])) == value(i));
  }
  CHECK(machine.npus_per_node == 2);
  CHECK(machine.die.vector_cores == 6);
  CHECK(machine.host_path.ssd_gbps == get(machine, "slow.ssd_gbps"));
  machine = load_machine("template");
  CHECK_THROWS_WITH(set(machine, "fabric.planes", 2.5), Contains("fabric.planes = 2.5: not a whole number"));
  CHECK_THROWS_WITH(set(machine, "fabric.colour", 1), Contains("'fabric.colour' is not a key"));
}

TEST_CASE("a name is looked for among the shipped files, a path is taken as it is") {
  CHECK(config_path("machines", "./x.ini", ".ini") == "./x.ini");
  CHECK(config_path("machines", "x.ini", ".ini") == "x.ini");
  CHECK(config_path("machines", "h800", ".ini").ends_with("machines/h800.ini"));
  CHECK_THROWS_WITH(config_path("machines", "h900", ".ini"),
                    Contains("'h900' is not in") && Contains("cloudmatrix384"));
  CHECK_THROWS_WITH(load_machine("./absent.ini"), Contains("./absent.ini"));
  ::setenv("SUPERNODE_CONFIG_DIR", "/nonexistent", 1);
  CHECK_THROWS_WITH(load_machine("h800"), Contains("/nonexistent/machines"));
  ::unsetenv("SUPERNODE_CONFIG_DIR");
}
