// kill -9 of a whole job at random moments, and a restart on the same directory: whatever was acknowledged is there.
// SUPERNODE_KILL_ROUNDS rounds (3 by default).
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <thread>

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "runtime/core/random.hpp"
#include "tests/support/catch.hpp"

namespace fs = std::filesystem;

namespace {

constexpr int ranks = 4;

struct Job {
  fs::path folder;
  pid_t launcher = -1;

  /// Starts `worker MODE` on all ranks, in a process group of its own.
  void start(const std::string& mode) {
    fs::remove_all(folder / "pids");
    fs::create_directories(folder / "pids");
    const std::string command = "exec " SUPERNODE_MPIRUN " " + std::to_string(ranks) + " " SUPERNODE_MPIRUN_FLAGS " " +
                                POOL_KILL_WORKER " " + mode + " " + folder.string();
    launcher = ::fork();
    REQUIRE(launcher >= 0);
    if (launcher > 0) return;
    ::setsid();
    // What a killed job cannot remove goes with the folder.
    ::setenv("OMPI_MCA_orte_tmpdir_base", folder.c_str(), 1);
    ::setenv("OMPI_MCA_btl_vader_backing_directory", folder.c_str(), 1);
    const int log = ::open((folder / (mode + ".log")).c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0666);
    ::dup2(log, 1);
    ::dup2(log, 2);
    ::execl("/bin/sh", "sh", "-c", command.c_str(), nullptr);
    ::_exit(127);
  }

  /// The ranks' processes, as far as they have started.
  std::vector<pid_t> workers() const {
    std::vector<pid_t> found;
    for (int rank = 0; rank < ranks; ++rank) {
      std::ifstream file(folder / "pids" / std::to_string(rank));
      pid_t pid = 0;
      if (file >> pid) found.push_back(pid);
    }
    return found;
  }

  static bool runs(pid_t pid) {
    std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
    std::string number, name, state;
    return file >> number >> name >> state && state != "Z";
  }

  void kill_all() {
    const std::vector<pid_t> pids = workers();
    ::kill(-launcher, SIGKILL);
    for (const pid_t pid : pids) ::kill(pid, SIGKILL);
    ::waitpid(launcher, nullptr, 0);
    for (int turn = 0; turn < 2000; ++turn) {
      if (std::none_of(pids.begin(), pids.end(), runs)) return;
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    FAIL("a killed worker is still there");
  }

  std::string log(const std::string& mode) const {
    std::ifstream file(folder / (mode + ".log"));
    return {std::istreambuf_iterator<char>(file), {}};
  }
};

}  // namespace

TEST_CASE("whatever was acknowledged survives kill -9 of the whole job") {
  const char* wanted = std::getenv("SUPERNODE_KILL_ROUNDS");
  const int rounds = wanted ? std::atoi(wanted) : 3;
  Job job;
  job.folder = fs::temp_directory_path() / ("supernode-kill-" + std::to_string(::getpid()));
  fs::create_directories(job.folder);
  supernode::Random draw(static_cast<std::uint64_t>(::getpid()));
  for (int round = 0; round < rounds; ++round) {
    job.start("write");
    for (int turn = 0; turn < 6000 && job.workers().size() < ranks; ++turn)
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    REQUIRE(job.workers().size() == ranks);
    // Recovery, the first stores, or far in the middle of them.
    const auto wait = std::chrono::milliseconds(20 + draw.below(draw.uniform() < 0.3 ? 200 : 1500));
    std::this_thread::sleep_for(wait);
    job.kill_all();

    job.start("verify");
    int status = 0;
    ::waitpid(job.launcher, &status, 0);
    const std::string said = job.log("verify");
    INFO("round " << round << ", killed after " << wait.count() << " ms: " << said << job.log("write"));
    CHECK(WIFEXITED(status));
    CHECK(WEXITSTATUS(status) == 0);
    if (wanted)
      std::printf("round %d, killed after %lld ms: %s", round, static_cast<long long>(wait.count()), said.c_str());
  }
  fs::remove_all(job.folder);
}
