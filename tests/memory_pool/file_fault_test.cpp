// Disks and directories that fail: a clear error, or blocks that are counted as not durable, and the service goes on.
#include <csignal>
#include <fstream>
#include <functional>
#include <thread>

#include <sched.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "memory_pool/files/file_tier.hpp"
#include "runtime/core/error.hpp"
#include "tests/memory_pool/log_fixture.hpp"

using namespace supernode;
using namespace supernode::pool;
using namespace supernode::pool::internal;
using namespace supernode::test;
namespace fs = std::filesystem;

namespace {

constexpr std::uint64_t limit = 1 << 20, segment = 1 << 16, direct = 8000;
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

/// The same with a small file system of its own at `folder`; `skipped` where it may not be mounted.
int on_mount(const LogFolder& folder, const char* type, const char* options, const std::function<int()>& body) {
  fs::create_directories(folder.path);
  return in_child([&] {
    if (::unshare(CLONE_NEWNS) != 0 || ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
        ::mount("none", folder.path.c_str(), type, 0, options) != 0)
      return skipped;
    return body();
  });
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
  const std::uint64_t threshold = GENERATE(std::uint64_t{0}, direct);
  const LogFolder folder;
  struct rlimit before;
  ::getrlimit(RLIMIT_FSIZE, &before);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  {
    RecordLog log(folder.text(), limit, segment, threshold);
    CHECK(put(log, 1, 1, 1000));
    struct rlimit tight = before;
    tight.rlim_cur = 8192;  // writes beyond fail
    ::setrlimit(RLIMIT_FSIZE, &tight);
    CHECK_FALSE(put(log, 2, 1, 8000));
    CHECK(fs::file_size(folder.segments().front()) == sizeof(SegmentHeader) + record_bytes(1000));  // cut off again
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
  RecordLog log(folder.text(), limit, segment, threshold);
  CHECK(version_of(log, 2) == 1);
  CHECK(version_of(log, 3) == 1);
  CHECK(log.stats().cut + log.stats().corrupt == 0);
}

TEST_CASE("a full disk: what fits stays, the rest is counted, and room that comes is used") {
  const std::uint64_t threshold = GENERATE(std::uint64_t{0}, direct);
  const LogFolder folder;
  const int code = on_mount(folder, "tmpfs", "size=260k", [&] {
    RecordLog log(folder.text(), limit, segment, threshold);
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

TEST_CASE("a file system without O_DIRECT is used through the page cache, and says so") {
  const LogFolder folder;
  const int code = on_mount(folder, "ramfs", nullptr, [&] {
    for (int round = 0; round < 2; ++round) {
      RecordLog log(folder.text(), limit, segment, direct);
      if (log.stats().direct_refused != 1) return 1;
      for (std::uint64_t i = 0; i < 200; ++i)
        if (!put(log, i, 2, i % 2 == 0 ? 100 : 10000) || version_of(log, i) != 2) return 2;
      if (log.stats().cleanings == 0 || log.stats().bytes > limit) return 3;
      if (log.stats().direct + log.stats().corrupt + log.stats().cut + log.stats().write_errors != 0) return 4;
      if (version_of(log, 199) != 2) return 5;
    }
    return 0;
  });
  if (code == skipped)
    WARN("skipped: this process may not mount a file system");
  else
    CHECK(code == 0);
}

TEST_CASE("direct records that are copied to a file system without O_DIRECT are read and cleaned there") {
  const LogFolder folder;
  std::vector<std::vector<char>> files;
  {
    RecordLog log(folder.text(), limit, segment, direct);
    for (std::uint64_t i = 0; i < 20; ++i) CHECK(put(log, i, 1, i % 2 == 0 ? 100 : 10000));
  }
  for (const fs::path& file : folder.segments()) {
    std::ifstream stream(file, std::ios::binary);
    files.emplace_back(std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>());
  }
  const std::vector<fs::path> names = folder.segments();
  const int code = on_mount(folder, "ramfs", nullptr, [&] {
    for (std::size_t i = 0; i < files.size(); ++i)
      std::ofstream(names[i], std::ios::binary).write(files[i].data(), static_cast<std::streamsize>(files[i].size()));
    RecordLog log(folder.text(), limit, segment, direct);
    for (int turn = 0; turn < 3; ++turn) {
      for (std::uint64_t i = 0; i < 20; ++i)
        if (version_of(log, i) != 1) return 1;
      for (std::uint64_t i = 0; i < 100; ++i)
        if (!put(log, 100 + i % 20, static_cast<std::uint64_t>(turn) * 100 + i, 10000)) return 2;
    }
    if (fs::exists(names.front())) return 3;
    return log.stats().direct + log.stats().corrupt + log.stats().cut == 0 ? 0 : 4;
  });
  if (code == skipped)
    WARN("skipped: this process may not mount a file system");
  else
    CHECK(code == 0);
}

TEST_CASE("a transfer that the device refuses as not aligned goes through the page cache, from then on") {
  const LogFolder folder;
  fs::create_directories(folder.path);
  RecordFile file = RecordFile::create((folder.path / "pages").string(), Direct::if_possible);
  REQUIRE(file.is_open());
  DirectBuffer buffer;
  const std::vector<std::byte> body = make_payload(key_number(1), 1, 3 * DirectBuffer::size_bytes);
  std::vector<std::byte> back(body.size());
  constexpr std::uint64_t odd = record_alignment + 8;  // stands for a device with larger sectors
  CHECK(file.write_direct(odd, std::span(body).first(64), std::span(body).subspan(64), buffer));
  CHECK(file.read_direct(odd, back, buffer));
  CHECK(back == body);
  if (file.direct()) WARN("this file system takes transfers of any alignment");
  CHECK_FALSE(file.read_direct(odd + record_alignment, back, buffer));  // the file ends before
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
  for (const DirectorySync mode : {DirectorySync::disk, DirectorySync::write}) {
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
      CHECK(tier.stats().syncs == (mode == DirectorySync::disk ? ++syncs : 0));
    }
    tier.remove(4, name_of(1));
    CHECK(wait_for(tier, 4).good);
    CHECK(tier.stats().syncs == (mode == DirectorySync::disk ? ++syncs : 0));
    tier.load(5, {name_of(2)});
    CHECK(wait_for(tier, 5).loaded.front().has_value());
    CHECK(tier.stats().syncs == syncs);  // reading costs none
  }
}
