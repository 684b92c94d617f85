// Disks and directories that fail: a clear error, or blocks that are counted as not durable, and the service goes on.
#include <csignal>
#include <fstream>
#include <functional>
#include <thread>

#include <sched.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "memory_pool/internal/file_tier.hpp"
#include "runtime/core/error.hpp"
#include "tests/memory_pool/log_fixture.hpp"

using namespace supernode;
using namespace supernode::pool;
using namespace supernode::pool::internal;
using namespace supernode::test;
namespace fs = std::filesystem;

namespace {

constexpr std::uint64_t limit = 1 << 20, segment = 1 << 16;
constexpr int skipped = 77;

/// What `body` returns, run in a process of its own, whose user and mounts it may change.
int in_child(const std::function<int()>& body) {
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    int code = 99;
    try {
      code = body();
    } catch (const std::exception& failure) {
      std::fprintf(stderr, "%s\n", failure.what());
    }
    ::_exit(code);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
}

FileTier::Done wait_for(FileTier& tier, std::uint64_t tag) {
  while (true) {
    for (FileTier::Done& done : tier.poll())
      if (done.tag == tag) return std::move(done);
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

}  // namespace

TEST_CASE("a disk without room costs durability, not the service") {
  const LogFolder folder;
  struct rlimit before;
  ::getrlimit(RLIMIT_FSIZE, &before);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  {
    RecordLog log(folder.text(), limit, segment);
    CHECK(put(log, 1, 1, 1000));
    struct rlimit tight = before;
    tight.rlim_cur = 4096;  // writes beyond fail
    ::setrlimit(RLIMIT_FSIZE, &tight);
    CHECK_FALSE(put(log, 2, 1, 8000));
    CHECK_FALSE(put(log, 1, 2, 8000));
    CHECK(log.stats().write_errors == 2);
    CHECK(version_of(log, 2) == -1);
    CHECK(version_of(log, 1) == -1);  // rather than its older version
    CHECK(put(log, 3, 1, 1000));      // a small one still fits
    ::setrlimit(RLIMIT_FSIZE, &before);
    CHECK(put(log, 2, 1, 8000));
    CHECK(version_of(log, 2) == 1);
    CHECK(version_of(log, 3) == 1);
  }
  std::signal(SIGXFSZ, handler);
  RecordLog log(folder.text(), limit, segment);
  CHECK(version_of(log, 2) == 1);
  CHECK(version_of(log, 3) == 1);
}

TEST_CASE("a full disk: what fits stays, the rest is counted, and room that comes is used") {
  const LogFolder folder;
  fs::create_directories(folder.path);
  const int code = in_child([&] {
    if (::unshare(CLONE_NEWNS) != 0 || ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
        ::mount("none", folder.path.c_str(), "tmpfs", 0, "size=256k") != 0)
      return skipped;
    RecordLog log(folder.text(), limit, segment);
    std::uint64_t fitted = 0;
    while (put(log, fitted, 1, 10000)) ++fitted;
    if (fitted < 10 || fitted > 26 || log.stats().write_errors != 1) return 1;
    for (std::uint64_t i = 0; i < fitted; ++i)
      if (version_of(log, i) != 1) return 2;
    if (version_of(log, fitted) != -1) return 3;
    if (put(log, 0, 2, 10000) || version_of(log, 0) != -1) return 4;  // rather than its older version
    if (!put(log, 500, 1, 24)) return 5;                              // what still fits is taken
    if (::mount("none", folder.path.c_str(), "tmpfs", MS_REMOUNT, "size=2m") != 0) return 6;
    return put(log, fitted, 3, 10000) && version_of(log, fitted) == 3 && version_of(log, 1) == 1 ? 0 : 7;
  });
  if (code == skipped)
    WARN("skipped: this process may not mount a small disk");
  else
    CHECK(code == 0);
}

TEST_CASE("a directory that cannot be written is refused in one line that names it") {
  const LogFolder folder;
  fs::create_directories(folder.path);
  fs::permissions(folder.path,
                  fs::perms::owner_read | fs::perms::owner_exec | fs::perms::others_read | fs::perms::others_exec);
  CHECK(in_child([&] {
          constexpr uid_t nobody = 65534;
          if (::geteuid() == 0 && ::seteuid(nobody) != 0) return 1;
          try {
            const RecordLog log(folder.text(), limit, segment);
          } catch (const EnvironmentError& refusal) {
            const std::string text = refusal.what();
            return text.find(folder.text()) != std::string::npos && text.find("Permission denied") != std::string::npos
                       ? 0
                       : 2;
          }
          return 3;
        }) == 0);
  fs::permissions(folder.path, fs::perms::owner_all);
}

TEST_CASE("a file that is cut while it is open costs its blocks, and new ones are kept") {
  const LogFolder folder;
  {
    RecordLog log(folder.text(), limit, segment);
    for (std::uint64_t i = 0; i < 10; ++i) CHECK(put(log, i, 1, 1000));
    fs::resize_file(folder.segments().front(), sizeof(SegmentHeader) + 3 * record_bytes(1000) + 10);
    for (std::uint64_t i = 0; i < 10; ++i) CHECK(version_of(log, i) == (i < 3 ? 1 : -1));
    CHECK(log.stats().corrupt == 7);
    CHECK(put(log, 20, 1, 1000));
    CHECK(version_of(log, 20) == 1);
  }
  RecordLog log(folder.text(), limit, segment);
  CHECK(version_of(log, 2) == 1);
  CHECK(version_of(log, 20) == 1);
  CHECK(log.stats().cut > 0);
}

TEST_CASE("directory_sync = disk acknowledges after fdatasync, write does without") {
  for (const std::string mode : {"disk", "write"}) {
    const LogFolder folder;
    PoolConfig config;
    config.directory_sync = mode;
    FileTier tier(config, folder.text());
    std::uint64_t syncs = 0;
    for (std::uint64_t tag = 1; tag <= 3; ++tag) {
      const Name name = name_of(tag);
      const auto payload = make_payload(name.key, tag, 5000);
      CHECK(tier.store(tag, name, payload, checksum_of(payload)));
      CHECK(wait_for(tier, tag).good);
      CHECK(tier.stats().syncs == (mode == "disk" ? ++syncs : 0));
    }
    tier.remove(4, name_of(1));
    CHECK(wait_for(tier, 4).good);
    CHECK(tier.stats().syncs == (mode == "disk" ? ++syncs : 0));
    tier.load(5, {name_of(2)});
    CHECK(wait_for(tier, 5).loaded.front().has_value());
    CHECK(tier.stats().syncs == syncs);  // reading costs none
  }
}
