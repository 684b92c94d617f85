// What all commands have in common: help, configuration, and ways to fail that are not about their input.
#include "tests/support/run_command.hpp"

using namespace supernode;
using namespace supernode::test;
using Catch::Matchers::Contains;

TEST_CASE("help and version need no launcher, for every command") {
  const Outcome help = supernode_alone("--help");
  CHECK(help.code == 0);
  for (const char* command : {"serve", "generate", "eval", "bench exchange", "bench tune", "bench model", "bench pool",
                              "import", "inspect", "place", "plan", "validate", "topo", "config"}) {
    CHECK_THAT(help.out, Contains(command));
    const Outcome own = supernode_alone(std::string(command) + " --help");
    CHECK(own.code == 0);
    CHECK_THAT(own.out, Contains("Options of every command:"));
  }
  CHECK(supernode_alone("").code == 0);
  CHECK_THAT(supernode_alone("--version").out, Contains("supernode 0."));
  const Outcome many = supernode_on(3, "--help");
  CHECK(many.out == help.out);
}

TEST_CASE("config prints a file that gives the same configuration") {
  const Outcome first = supernode_alone("config --serving.decode-dies 7 --pool.capacity 3M");
  REQUIRE(first.code == 0);
  CHECK_THAT(first.out, Contains("decode_dies = 7") && Contains("capacity = 3M"));
  const std::string path = scratch_file("printed.ini", first.out);
  const Outcome second = supernode_alone("config --config " + path);
  CHECK(second.code == 0);
  // The one difference is where it was read from.
  std::string expected = first.out;
  const auto place = expected.find("config = \n");
  REQUIRE(place != std::string::npos);
  expected.replace(place, 10, "config = " + path + "\n");
  CHECK(second.out == expected);
  CHECK_THAT(supernode_alone("config", "SUPERNODE_SERVING__DECODE_DIES=9").out, Contains("decode_dies = 9"));
}

TEST_CASE("topo shows every rank on the emulated machine and on its host") {
  const Json topo = document_of(supernode_on(3, "topo --format json"));
  CHECK(topo["schema"] == "supernode.topo/1");
  CHECK(topo["env"]["ranks"] == 3);
  CHECK(topo["results"]["machine"]["dies"] == 768);
  REQUIRE(topo["results"]["ranks"].size() == 3);
  CHECK(topo["results"]["ranks"][2]["npu"] == 1);
}

TEST_CASE("a pool directory that cannot be used is exit code 3, on all ranks alike") {
  const Outcome outcome = supernode_on(2, "bench pool --pool.directory /proc/pool");
  CHECK(outcome.code == 3);
  CHECK(outcome.complaints().size() == 1);
  CHECK_THAT(outcome.err, Contains("/proc/pool"));
}

TEST_CASE("a stdout that takes nothing is exit code 3") {
  for (const char* command : {"config", "--help", "inspect --model configs/models/shakespeare-moe --format json"}) {
    INFO(command);
    const Outcome outcome = supernode_alone(command + std::string(" > /dev/full )"), "(");
    CHECK(outcome.code == 3);
    CHECK(outcome.complaints().size() == 1);
    CHECK_THAT(outcome.err, Contains("stdout"));
  }
}
