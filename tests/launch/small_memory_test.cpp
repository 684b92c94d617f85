// The program in a container's small /dev/shm: a line that says what is needed, what is free and what to do, no hang,
// and no signal. Needs the right to mount.
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <string>

#include <sys/wait.h>
#include <unistd.h>

#include "runtime/core/files.hpp"
#include "tests/support/catch.hpp"

using namespace supernode;
using Catch::Matchers::Contains;
namespace fs = std::filesystem;

namespace {

struct Outcome {
  int code = -1;
  std::string errors;
  double seconds = 0;
  /// Lines of ours on stderr; a launcher adds some of its own.
  int complaints() const {
    int count = 0;
    for (std::size_t at = errors.find("supernode: "); at != std::string::npos; at = errors.find("supernode: ", at + 1))
      count += at == 0 || errors[at - 1] == '\n';
    return count;
  }
};

/// `command` in a mount namespace of its own whose /dev/shm has `size`; `meanwhile` runs beside it.
Outcome in_small_memory(const std::string& size, const std::string& command) {
  const fs::path folder = fs::temp_directory_path() / ("supernode-small-" + std::to_string(::getpid()));
  fs::create_directories(folder);
  const std::string script = (folder / "script").string(), errors = (folder / "err").string();
  fs::remove(script);
  write_file(script, "mount -t tmpfs -o size=" + size + " tmpfs /dev/shm || exit 9\ncd " SUPERNODE_SOURCE_DIR "\n" +
                         command + "\n");
  const auto start = std::chrono::steady_clock::now();
  const int status = std::system(("unshare -m sh " + script + " > /dev/null 2> " + errors + " < /dev/null").c_str());
  Outcome outcome;
  outcome.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  outcome.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128;
  outcome.errors = read_file(errors);
  fs::remove_all(folder);
  return outcome;
}

std::string supernode_on(int ranks, const std::string& arguments) {
  return "timeout 60 " SUPERNODE_MPIRUN " " + std::to_string(ranks) +
         " " SUPERNODE_MPIRUN_FLAGS " " SUPERNODE_BINARY " " + arguments;
}

bool can_mount() {
  if (in_small_memory("1m", "true").code == 0) return true;
  WARN("skipped: this user cannot mount a file system");
  return false;
}

void check_refusal(const Outcome& outcome, const std::string& what, const std::string& remedy) {
  INFO(outcome.errors);
  CHECK(outcome.code == 3);
  CHECK(outcome.seconds < 30);
  CHECK(outcome.complaints() == 1);
  CHECK_THAT(outcome.errors, Contains(what) && Contains(" bytes (") && Contains("in /dev/shm") &&
                                 Contains("are free: enlarge it") && Contains(remedy));
}

}  // namespace

TEST_CASE("memory that does not fit into /dev/shm is refused in one line, whoever asks for it") {
  if (!can_mount()) return;
  const std::string get = "bench pool --op get --block-bytes 64K:64K -i 10 --deadline 5 --pool.capacity ";
  check_refusal(in_small_memory("64m", supernode_on(2, get + "128M")), "the pool's memory needs", "pool.capacity");
  check_refusal(in_small_memory("64m", supernode_on(3, get + "40M")), "baseline", "pool.capacity");
  check_refusal(in_small_memory("64m", supernode_on(8, "serve --config configs/quickstart.ini")),
                "the pool's memory needs", "pool.capacity");
  check_refusal(in_small_memory("24m", supernode_on(2, "bench exchange --algorithm direct --num-tokens 4096 -i 5")),
                "exchange algorithm 'direct' needs", "fewer tokens");
}

TEST_CASE("what fits runs") {
  if (!can_mount()) return;
  const Outcome outcome = in_small_memory(
      "64m", supernode_on(2, "bench pool --op get --block-bytes 64K:64K -i 10 --deadline 5 --pool.capacity 16M"));
  INFO(outcome.errors);
  CHECK(outcome.code == 0);
}

TEST_CASE("where /dev/shm fills up later, the cause is named") {
  if (!can_mount()) return;
  // The windows of an exchange have holes; a neighbour takes the pages before tokens fill them.
  const Outcome outcome =
      in_small_memory("200m",
                      "(while ! ls /dev/shm/vader* > /dev/null 2>&1; do sleep 0.01; done; sleep 0.5; cat /dev/zero > "
                      "/dev/shm/neighbour) 2> /dev/null &\n" +
                          supernode_on(2, "bench exchange --algorithm direct --num-tokens 1:8192 -i 200 -x 1"));
  INFO(outcome.errors);
  CHECK(outcome.code == 3);
  CHECK(outcome.complaints() >= 1);
  CHECK_THAT(outcome.errors, Contains("/dev/shm") && Contains("enlarge it"));
}
