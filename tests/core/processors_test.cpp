// Processors of ranks: what bindings and quotas leave them.
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "runtime/core/core_sharing.hpp"
#include "runtime/core/cpu_quota.hpp"
#include "runtime/core/mpi/host_topology.hpp"
#include "tests/support/catch.hpp"

using namespace supernode;

namespace {

using Lists = std::vector<std::vector<int>>;

/// A root of a file system with control groups.
class FakeRoot {
 public:
  FakeRoot() : path_(std::filesystem::temp_directory_path() / ("supernode_root_" + std::to_string(::rand()))) {
    std::filesystem::remove_all(path_);
  }
  ~FakeRoot() { std::filesystem::remove_all(path_); }
  void write(const std::string& name, const std::string& text) const {
    std::filesystem::create_directories((path_ / name).parent_path());
    std::ofstream(path_ / name) << text;
  }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

HostTopology made_up_host(const char* description) {
  ::setenv("HWLOC_SYNTHETIC", description, 1);
  HostTopology host = detect_host_topology();
  ::unsetenv("HWLOC_SYNTHETIC");
  return host;
}

}  // namespace

TEST_CASE("ranks have a processor of their own when their bindings together allow it") {
  CHECK(ranks_with_own_processor(Lists{}) == 0);
  CHECK(ranks_with_own_processor(Lists{{0}, {0}}) == 1);
  CHECK(ranks_with_own_processor(Lists{{0}, {1}}) == 2);
  CHECK(ranks_with_own_processor(Lists{{0, 1}, {0, 1}, {0, 1}}) == 2);
  // The first two take what the last one needs, unless they move.
  CHECK(ranks_with_own_processor(Lists{{0, 1}, {0, 2}, {0}}) == 3);
  // Four processors for three ranks, but two ranks are on the same one.
  CHECK(ranks_with_own_processor(Lists{{0}, {0}, {1, 2, 3}}) == 2);
  CHECK(ranks_with_own_processor(Lists{{}, {5}}) == 1);
}

TEST_CASE("ranks share cores by their bindings, not by the size of the host, or by a quota") {
  CHECK(share_cores(Lists{{0}, {0}}, std::nullopt));
  CHECK_FALSE(share_cores(Lists{{0}, {1}}, std::nullopt));
  CHECK_FALSE(share_cores(Lists{{0}, {1}}, 2.0));
  CHECK(share_cores(Lists{{0}, {1}}, 1.5));
}

TEST_CASE("a quota is read from either kind of control group") {
  CHECK(parse_cpu_max("150000 100000\n") == 1.5);
  CHECK(parse_cpu_max("max 100000\n") == std::nullopt);
  CHECK(parse_cpu_max("") == std::nullopt);
  CHECK(parse_cpu_max("100000") == std::nullopt);
  CHECK(parse_cpu_max("100000 0") == std::nullopt);
  CHECK(parse_cfs_quota("50000\n", "100000\n") == 0.5);
  CHECK(parse_cfs_quota("-1\n", "100000\n") == std::nullopt);
}

TEST_CASE("the least quota of a group and those around it counts") {
  const FakeRoot two;
  CHECK(cpu_quota(two.path()) == std::nullopt);
  two.write("proc/self/cgroup", "0::/job/step\n");
  two.write("sys/fs/cgroup/job/step/cpu.max", "max 100000\n");
  CHECK(cpu_quota(two.path()) == std::nullopt);
  two.write("sys/fs/cgroup/job/cpu.max", "300000 100000\n");
  CHECK(cpu_quota(two.path()) == 3);
  two.write("sys/fs/cgroup/job/step/cpu.max", "250000 100000\n");
  CHECK(cpu_quota(two.path()) == 2.5);

  // In a container the path is the host's, and the mounted hierarchy begins at the container's group.
  const FakeRoot one;
  one.write("proc/self/cgroup", "5:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n");
  one.write("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "150000\n");
  one.write("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n");
  CHECK(cpu_quota(one.path()) == 1.5);
}

TEST_CASE("processing units count where hwloc knows no cores") {
  const HostTopology bare = made_up_host("pu:4");
  CHECK(bare.cores == 4);
  CHECK(bare.usable_cores == std::vector<int>{0, 1, 2, 3});
  const HostTopology threads = made_up_host("core:2 pu:2");
  CHECK(threads.cores == 2);
  CHECK(threads.usable_cores == std::vector<int>{0, 1});
}
