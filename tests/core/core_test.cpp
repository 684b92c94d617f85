// The small parts of runtime/core that need no MPI.
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <set>
#include <thread>

#include <sys/wait.h>
#include <unistd.h>

#include "runtime/core/clock.hpp"
#include "runtime/core/files.hpp"
#include "runtime/core/json.hpp"
#include "runtime/core/mpi/deadline.hpp"
#include "runtime/core/mpi/host_topology.hpp"
#include "runtime/core/mpi/watchdog.hpp"
#include "runtime/core/random.hpp"
#include "runtime/core/result_file.hpp"
#include "runtime/core/sizes.hpp"
#include "runtime/core/statistics.hpp"
#include "tests/support/catch.hpp"

using namespace supernode;
using Catch::Matchers::Contains;

namespace {
std::string fresh_path(const std::string& name) {
  const auto path = std::filesystem::temp_directory_path() / ("supernode-core-test-" + name);
  std::filesystem::remove(path);
  return path.string();
}
}  // namespace

TEST_CASE("sizes are IEC") {
  CHECK(parse_size("0") == 0);
  CHECK(parse_size("64k") == 65536);
  CHECK(parse_size("1.5MiB") == 3 << 19);
  CHECK(parse_size("7B") == 7);
  for (const char* bad : {"", "K", "-1", "1KK", "1e99", "8 K", "nan"}) CHECK_THROWS_AS(parse_size(bad), UsageError);
  CHECK(format_size(235929600) == "225 MiB");
  CHECK(format_size(12) == "12 B");
}

TEST_CASE("summaries follow the order statistics") {
  std::vector<double> sample(101);
  for (std::size_t i = 0; i < sample.size(); ++i) sample[i] = static_cast<double>((i * 37) % 101);
  const Summary s = summarize(sample);
  CHECK(s.min == 0);
  CHECK(s.p50 == 50);
  CHECK(s.p90 == 90);
  CHECK(s.max == 100);
  CHECK(s.ci95 > 5);
  CHECK(s.ci95 < 15);
  CHECK(summarize({}).count == 0);
  const std::vector<double> one{3};
  CHECK(summarize(one).p99 == 3);
  CHECK(summarize(one).stddev == 0);
}

TEST_CASE("quantiles of the normal distribution are those of tables") {
  CHECK(normal_quantile(0.5) == Approx(0).margin(1e-15));
  CHECK(normal_quantile(0.975) == Approx(1.959963984540054).epsilon(1e-14));
  CHECK(normal_quantile(0.001) == Approx(-3.090232306167813).epsilon(1e-14));
}

TEST_CASE("draws depend on seed, stream and counter only") {
  Random a(1, 2), b(1, 2), c(1, 3);
  std::set<std::uint64_t> seen;
  for (int i = 0; i < 1000; ++i) {
    const std::uint64_t draw = a();
    CHECK(draw == b());
    seen.insert(draw);
    seen.insert(c());
    const double u = a.uniform();
    CHECK((u >= 0 && u < 1));
    b();
  }
  CHECK(seen.size() == 2000);
}

TEST_CASE("a wait ends at its deadline with the words it was given") {
  CHECK_THROWS_WITH(
      wait_until([] { return false; }, 0.05, [] { return std::string("rank 1 heard nothing from rank 2"); }),
      Contains("rank 1 heard nothing from rank 2"));
  int turns = 0;
  wait_until([&] { return ++turns == 100; }, 10, [] { return std::string(); });
  CHECK(turns == 100);
}

TEST_CASE("a watchdog ends the process that a call holds up, and no other") {
  int calls = 0;
  {
    Watchdog watchdog;
    watchdog.guard(
        10, [&] { ++calls; }, [] { return std::string("never said"); });
  }
  CHECK(calls == 1);
  const pid_t child = ::fork();
  if (child == 0) {
    Watchdog watchdog;
    watchdog.guard(
        0.05, [] { ::sleep(20); }, [] { return std::string("(expected) rank 1 was not heard"); });
    std::_Exit(0);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 3);
}

TEST_CASE("files: errors name the path, results are never overwritten") {
  CHECK_THROWS_WITH(read_file("/nowhere/at/all"), Contains("/nowhere/at/all") && Contains("No such file"));
  CHECK_THROWS_WITH(read_file("/"), Contains("directory"));
  const std::string path = fresh_path("text");
  write_new_file(path, "hello");
  CHECK(read_file(path) == "hello");
  CHECK_THROWS_WITH(write_new_file(path, "again"), Contains(path) && Contains("never overwritten"));
  CHECK(read_file(path) == "hello");
  CHECK_THROWS_AS(write_new_file("/dev/full/x", ""), EnvironmentError);
  replace_file(path, "again");
  CHECK(read_file(path) == "again");
  replace_file(path + "2", "new");
  CHECK(read_file(path + "2") == "new");
  CHECK_THROWS_WITH(replace_file("/dev/full/x", ""), Contains("/dev/full/x"));
  std::filesystem::remove(path);
}

TEST_CASE("HDF5 results hold samples and attributes") {
  const std::string path = fresh_path("results.h5");
  ResultFile file(path);
  const std::vector<double> values{1, 2, 3, 4, 5, 6};
  const std::vector<std::int64_t> counts{7, 8};
  file.dataset("samples/direct/8", values, {2, 3});
  file.dataset("counts", counts, {2});
  file.dataset("names", {"a", "bc"});
  file.attribute("/", "document", std::string(200000, 'x'));
  file.attribute("samples/direct/8", "unit", "us");
  file.close();
  CHECK(std::filesystem::file_size(path) > 200000);
  CHECK_THROWS_AS(ResultFile(path), UsageError);
  CHECK_THROWS_AS(ResultFile("/nowhere/results.h5"), EnvironmentError);
  std::filesystem::remove(path);
}

TEST_CASE("broken JSON is refused with its source") {
  CHECK_THROWS_WITH(parse_json("{\"a\": ", "config.json"), Contains("config.json") && Contains("byte"));
}

TEST_CASE("the host is described, also a made-up one") {
  ::setenv("HWLOC_SYNTHETIC", "package:2 numa:2 core:4 pu:2", 1);
  const HostTopology host = detect_host_topology();
  ::unsetenv("HWLOC_SYNTHETIC");
  CHECK(host.packages == 2);
  CHECK(host.numa_nodes == 4);
  CHECK(host.cores == 16);
  CHECK(host.processing_units == 32);
  const HostTopology real = detect_host_topology();
  CHECK(real.cores >= 1);
  CHECK_FALSE(real.binding.empty());
}
