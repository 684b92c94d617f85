// Files of results: whole or not there, never by accident in the place of another.
#include "tests/support/run_command.hpp"

using namespace supernode;
using namespace supernode::test;
using Catch::Matchers::Contains;
namespace fs = std::filesystem;

namespace {

const std::string model = "configs/models/shakespeare-moe";

/// An empty folder in scratch().
std::string empty_folder(const std::string& name) {
  fs::remove_all(scratch() / name);
  fs::create_directories(scratch() / name);
  return scratch_path(name);
}

/// Whether this user may put a small file system over a folder, in a name space of its own.
bool can_mount() {
  static const bool can = shell("unshare -m mount -t tmpfs tmpfs " + empty_folder("mount")).code == 0;
  if (!can) WARN("skipped: this user cannot mount a file system");
  return can;
}

/// Runs a command where `folder` has room for `size` only, then shows what it left there.
Outcome on_small_disk(const std::string& size, const std::string& folder, const std::string& command) {
  const std::string script =
      scratch_file("small", "mount -t tmpfs -o size=" + size + " tmpfs " + folder + "\n" + command +
                                "\ncode=$?\nls -A " + folder + " | sed 's/^/left: /'\nexit $code\n");
  return shell("unshare -m sh " + script);
}

}  // namespace

TEST_CASE("a full disk is one line with the reason, exit code 3, and nothing is left") {
  if (!can_mount()) return;
  const std::string folder = empty_folder("small-disk"), file = folder + "/x.h5";
  const std::string program = SUPERNODE_BINARY " ", mpirun = SUPERNODE_MPIRUN " 2 " SUPERNODE_MPIRUN_FLAGS " ";
  const std::string serve = SUPERNODE_MPIRUN " 8 " SUPERNODE_MPIRUN_FLAGS " " + program +
                            "serve --config configs/quickstart.ini --max-requests 8 --machine cloudmatrix384 ";
  for (const auto& [size, command] : std::vector<std::pair<std::string, std::string>>{
           {"8k", program + "validate --output " + file},
           {"24k", program + "validate --output " + file},
           {"8k", program + "validate --format json --output " + file},
           {"8k", mpirun + program + "topo --output " + file},
           {"4k", mpirun + program + "validate --output " + file},
           {"8k", program + "import --model " + model + " --output " + file},
           {"1m", program + "import --model " + model + " --output " + file},
           {"6m", program + "import --model " + model + " --dtype f32 --output " + file},
           {"16k", program + "plan --trace " + file},
           {"8k", serve + "--trace-out " + file},
           {"8k", serve + "--record " + file},
           {"24k", serve + "--record " + file},
           {"4k", program + "bench pool --trace configs/traces/quickstart.jsonl --plot " + folder + "/x.svg"}}) {
    INFO(size << " " << command);
    const Outcome outcome = on_small_disk(size, folder, command);
    check_refused(outcome, 3, "No space left on device");
    CHECK_THAT(outcome.out, !Contains("left: "));
  }
}

TEST_CASE("what was measured is printed although the file of results could not be written") {
  if (!can_mount()) return;
  const std::string folder = empty_folder("small-disk");
  const Outcome outcome =
      on_small_disk("8k", folder, SUPERNODE_BINARY " validate --format json --output " + folder + "/x.h5");
  CHECK(outcome.code == 3);
  CHECK(parse_json(outcome.out, "stdout")["results"]["passed"] == true);
}

TEST_CASE("a limit on the size of files is a failed write, not the end of the process") {
  const std::string folder = empty_folder("limited");
  for (const std::string& command :
       {"validate --output " + folder + "/x.h5", "import --model " + model + " --output " + folder + "/x.h5"}) {
    INFO(command);
    check_refused(supernode_alone(command, "ulimit -f 16;"), 3, "File too large");
    CHECK(fs::is_empty(folder));
  }
}

TEST_CASE("a failed import leaves nothing in the way of the next") {
  const std::string folder = empty_folder("imports"), file = folder + "/m.h5";
  CHECK(supernode_alone("import --model " + model + " --dtype bf16 --output " + file, "ulimit -f 64;").code == 3);
  CHECK(supernode_alone("import --model " + model + " --dtype bf16 --output " + file).code == 0);
  CHECK(supernode_alone("inspect --model " + file).code == 0);
}

TEST_CASE("an existing result is replaced on purpose only") {
  const std::string file = scratch_file("kept-result.h5", "mine");
  check_refused(supernode_alone("validate --output " + file), 2, "never overwritten");
  CHECK(read_file(file) == "mine");
  CHECK(supernode_alone("validate --overwrite --output " + file).code == 0);
  CHECK(fs::file_size(file) > 10000);
  CHECK(supernode_on(2, "topo --overwrite --output " + file).code == 0);
  CHECK(supernode_alone("import --model " + model + " --overwrite --output " + file).code == 0);
  CHECK(supernode_alone("inspect --model " + file).code == 0);
  const std::string trace = scratch_file("kept-trace.json", "mine");
  check_refused(supernode_alone("plan --trace " + trace), 2, "never overwritten");
  CHECK(supernode_alone("plan --overwrite --trace " + trace).code == 0);
  CHECK(parse_json(read_file(trace), trace).contains("traceEvents"));
  check_refused(supernode_alone("validate --overwrite --output /dev/null"), 2, "it is no regular file");
}

TEST_CASE("text that is no UTF-8 is escaped alike on stdout and in the file of results") {
  const std::string file = scratch_path("latin.h5");
  const Outcome outcome =
      supernode_on(1, "generate --prompt \"$(printf 'caf\\351')\" --max-tokens 3 --format json --output " + file);
  CHECK(document_of(outcome)["args"]["prompt"] == "caf\xef\xbf\xbd");
  const std::string bytes = read_file(file);
  CHECK(bytes.find("\"prompt\":\"caf\xef\xbf\xbd\"") != std::string::npos);  // the document
  CHECK(bytes.find("prompt = caf\xef\xbf\xbd\n") != std::string::npos);      // the configuration
  CHECK(bytes.find("caf\xe9") == std::string::npos);
}

TEST_CASE("a place that takes no file is exit code 3") {
  const Outcome outcome = supernode_on(2, "topo --output /proc/results.h5");
  CHECK(outcome.code == 3);
  CHECK(outcome.complaints().size() == 1);
  CHECK_THAT(outcome.err, Contains("/proc/results.h5"));
  CHECK_FALSE(outcome.out.empty());  // what was measured is there

  const Outcome early = supernode_on(2, "bench pool --output /nowhere/results.h5");
  CHECK(early.code == 3);
  CHECK(early.complaints().size() == 1);
  CHECK_THAT(early.err, Contains("/nowhere/results.h5"));
  CHECK(early.out.empty());
}
