// The small parts of runtime/core that need no MPI.
#include <algorithm>
#include <cmath>
#include <set>
#include <thread>

#include <sys/wait.h>
#include <unistd.h>

#include "runtime/core/clock.hpp"
#include "runtime/core/json.hpp"
#include "runtime/core/mpi/deadline.hpp"
#include "runtime/core/mpi/host_topology.hpp"
#include "runtime/core/mpi/launcher.hpp"
#include "runtime/core/mpi/watchdog.hpp"
#include "runtime/core/random.hpp"
#include "runtime/core/sizes.hpp"
#include "runtime/core/statistics.hpp"
#include "tests/support/catch.hpp"

using namespace supernode;
using Catch::Matchers::Contains;

TEST_CASE("ranges of sizes double, and end where they are told to") {
  using Sizes = std::vector<std::uint64_t>;
  CHECK(doubling_sizes(1, 1) == Sizes{1});
  CHECK(doubling_sizes(3, 24) == Sizes{3, 6, 12, 24});
  CHECK(doubling_sizes(4, 10) == Sizes{4, 8, 10});
  constexpr std::uint64_t most = UINT64_MAX;
  CHECK(doubling_sizes(most / 2 + 1, most) == Sizes{most / 2 + 1, most});
}

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

TEST_CASE("quantiles of the gamma distribution are those of tables") {
  CHECK(gamma_quantile(0, 2) == 0);
  CHECK(gamma_quantile(0.5, 1) == Approx(std::log(2)).epsilon(1e-12));               // exponential
  CHECK(gamma_quantile(0.95, 0.5) == Approx(3.841458820694124 / 2).epsilon(1e-12));  // half a chi-squared of one degree
}

TEST_CASE("the interval of a mean is Student's") {
  const double sample[] = {10, 12, 14};
  CHECK(mean_ci95(sample) == Approx(4.302652729911275 * 2 / std::sqrt(3)).epsilon(1e-10));
  CHECK(mean_ci95(std::span(sample, 1)) == 0);
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

TEST_CASE("broken JSON is refused with its source") {
  CHECK_THROWS_WITH(parse_json("{\"a\": ", "config.json"), Contains("config.json") && Contains("byte"));
}

TEST_CASE("launchers are known by their names") {
  for (const char* name :
       {"mpirun", "mpiexec.openmp", "orted", "orterun", "prterun", "prted", "hydra_pmi_proxy", "slurmstepd"})
    CHECK(is_launcher(name));
  for (const char* name : {"bash", "sh", "python3", "ctest", "systemd", "srun", ""}) CHECK_FALSE(is_launcher(name));
}

TEST_CASE("text of any bytes may stand in a document") {
  const std::string bad = "\xef\xbf\xbd";
  CHECK(valid_utf8("h\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80") == "h\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80");
  CHECK(valid_utf8("\xff|\xc3") == bad + "|" + bad);               // no lead byte; cut short
  CHECK(valid_utf8("\xc0\xaf") == bad + bad);                      // overlong
  CHECK(valid_utf8("\xed\xa0\x80") == bad + bad + bad);            // surrogate
  CHECK(valid_utf8("\xf4\x90\x80\x80") == bad + bad + bad + bad);  // above U+10FFFF
  CHECK(parse_json(to_text(Json{{"k\xe9", "caf\xe9"}}), "here") == Json{{valid_utf8("k\xe9"), valid_utf8("caf\xe9")}});
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
