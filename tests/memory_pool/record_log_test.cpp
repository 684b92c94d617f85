// The file tier without MPI: restarts, damage, limits, and processes killed at random moments.
#include <chrono>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <map>

#include <sys/wait.h>
#include <unistd.h>

#include "memory_pool/files/file_tier.hpp"
#include "memory_pool/format/checksum.hpp"
#include "runtime/core/error.hpp"
#include "tests/memory_pool/log_fixture.hpp"
#include "tests/memory_pool/random_log_work.hpp"

using namespace supernode;
using namespace supernode::pool;
using namespace supernode::pool::internal;
using namespace supernode::test;
using Catch::Matchers::Contains;
namespace fs = std::filesystem;

namespace {

constexpr std::uint64_t limit = 1 << 20, segment = 1 << 16;

}  // namespace

TEST_CASE("a log gives back what was written, after a restart, too") {
  TestLog log;
  for (int round = 0; round < 3; ++round) {
    if (round > 0) log.restart();
    CHECK(log.stats().recovered == (round == 0 ? 0u : 30u));
    for (std::uint64_t i = 0; i < 40; ++i) {
      CHECK(log.version(i) == (round == 0 || i % 4 == 3 ? -1 : round - 1));
      CHECK(log.put(i, static_cast<std::uint64_t>(round), 24 + i * 50));
    }
    for (std::uint64_t i = 3; i < 40; i += 4) CHECK(log.remove(i));
    CHECK_FALSE(log.has(1, 2));  // another namespace
    CHECK(log.remove(1, 2));
    CHECK(log.log().sync());
    CHECK(log.stats().records == 30);
    CHECK(log.stats().corrupt + log.stats().cut + log.stats().write_errors == 0);
  }
}

TEST_CASE("equal bytes are written once") {
  TestLog log;
  CHECK(log.put(1, 1, 1000));
  const std::uint64_t bytes = log.stats().bytes;
  CHECK(log.put(1, 1, 1000));
  CHECK(log.stats().bytes == bytes);
}

TEST_CASE("a file cut at any place loses only the record that is cut") {
  TestLog log;
  for (std::uint64_t i = 0; i < 10; ++i) CHECK(log.put(i, i, 200));
  const std::uint64_t record = record_bytes(200);
  for (std::uint64_t size = log.file_bytes(); size > 0; size -= std::min<std::uint64_t>(size, 37)) {
    log.close();
    log.cut_to(size);
    log.open();
    const std::uint64_t whole = size < sizeof(SegmentHeader) ? 0 : (size - sizeof(SegmentHeader)) / record;
    for (std::uint64_t i = 0; i < 10; ++i) CHECK(log.version(i) == (i < whole ? static_cast<long long>(i) : -1));
  }
}

TEST_CASE("a flipped bit costs one record, is counted, and is never served") {
  TestLog log;
  for (std::uint64_t i = 0; i < 10; ++i) CHECK(log.put(i, i, 200));
  const std::uint64_t size = log.file_bytes();
  for (std::uint64_t at = sizeof(SegmentHeader); at < size; at += 41) {
    log.close();
    log.flip(at);
    log.open();
    int there = 0;
    for (std::uint64_t i = 0; i < 10; ++i) there += log.version(i) == static_cast<long long>(i);
    CHECK(there == 9);
    CHECK(log.stats().corrupt + log.stats().cut == 1);
    log.close();
    log.flip(at);
    log.open();
  }
  // While it is open: found when it is read.
  log.flip(sizeof(SegmentHeader) + sizeof(RecordHeader) + 100);
  CHECK(log.version(0) == -1);
  CHECK(log.stats().corrupt == 1);
  CHECK(log.version(1) == 1);
}

TEST_CASE("foreign files are left alone, drafts of the own ones go; impossible directories are refused in one line") {
  const LogFolder folder;
  fs::create_directories(folder.path);
  std::ofstream(folder.path / "notes.txt") << "mine";
  std::ofstream(folder.path / "namespaces.0123abcd.part") << "of a write that a crash has ended";
  std::ofstream(folder.path / segment_name(7)) << std::string(5000, 'z');
  {
    RecordLog log(folder.text(), limit, segment);
    CHECK(log.stats().foreign == 2);
    CHECK_FALSE(fs::exists(folder.path / "namespaces.0123abcd.part"));
    CHECK(put(log, 1, 1, 100));
    CHECK(version_of(log, 1) == 1);
    CHECK_THROWS_WITH(RecordLog(folder.text(), limit, segment), Contains("another process uses it"));
  }
  CHECK(fs::file_size(folder.path / segment_name(7)) == 5000);
  CHECK_THROWS_AS(RecordLog((folder.path / "notes.txt").string(), limit, segment), EnvironmentError);
  CHECK_THROWS_WITH(RecordLog("/proc/supernode-pool", limit, segment), Contains("/proc/supernode-pool"));
}

TEST_CASE("a payload that looks like records is not taken for some") {
  TestLog log;
  RecordHeader forged;
  forged.key = test::key_number(99);
  forged.name_space = 2;
  forged.checksum = checksum_of({});
  std::vector<std::byte> payload;
  for (int i = 0; i < 8; ++i) {
    forged.sum = sum_of(forged, 0, sizeof(SegmentHeader) + sizeof(RecordHeader) + payload.size());
    const auto bytes = std::as_bytes(std::span(&forged, 1));
    payload.insert(payload.end(), bytes.begin(), bytes.end());
  }
  CHECK(log.log().append(name_of(1), payload, checksum_of(payload)));
  log.close();
  log.flip(sizeof(SegmentHeader) + 8);
  log.open();
  CHECK(log.stats().cut == 1);
  CHECK(log.stats().records == 0);
}

TEST_CASE("the files stay within their limit; what is used stays, what was removed never comes back") {
  const LogFolder folder;
  RandomLogWork work{
      .keys = 600, .limit = limit, .draw_bytes = [](Random& draw) { return 24 + draw.below(6000); }, .pinned = {5000}};
  for (int round = 0; round < 3; ++round) {
    RecordLog log(folder.text(), limit, segment);
    Random draw(3, static_cast<std::uint64_t>(round));
    work.check_what_came_back(log);
    put(log, 5000, 1, 3000);
    work.run(log, folder, 3000, draw);
  }
}

TEST_CASE("a namespace keeps what was promised to it, and goes as a whole") {
  TestLog log;
  log.log().promise(1, 100 * record_bytes(1000));
  for (std::uint64_t i = 0; i < 100; ++i) CHECK(log.put(i, 1, 1000, 1));
  for (std::uint64_t i = 0; i < 5000; ++i) CHECK(log.put(i, 1, 1000, 2));  // five times the limit
  for (std::uint64_t i = 0; i < 100; ++i) CHECK(log.has(i, 1));
  CHECK(log.stats().forgotten > 4000);
  CHECK(log.stats().bytes <= TestLog::limit);
  CHECK(log.log().remove_namespace(2));
  CHECK_FALSE(log.has(4999, 2));
  CHECK(log.stats().records == 100);
  CHECK(log.put(7, 1, 1000, 2));

  log.restart();
  for (std::uint64_t i = 0; i < 100; ++i) CHECK(log.reads(i, 1));
  CHECK(log.reads(7, 2));  // written after the removal
  CHECK(log.stats().records == 101);
  CHECK(log.log().remove_namespace(1));

  log.restart();
  CHECK(log.stats().records == 1);
}

TEST_CASE("whatever was acknowledged survives kill -9 at random moments, intact") {
  const LogFolder folder;
  PoolConfig config;
  config.directory_direct = {GENERATE(0u, 4096u)};
  config.directory_limit = {8 << 20};
  config.directory_segment = {1 << 20};
  std::map<std::uint64_t, std::uint64_t> acknowledged;  // number -> version, in the order of writing
  std::uint64_t next_version = 1, lost = 0;
  Random draw(17);
  for (int round = 0; round < 20; ++round) {
    int ends[2];
    REQUIRE(::pipe(ends) == 0);
    const pid_t child = ::fork();
    REQUIRE(child >= 0);
    if (child == 0) {
      FileTier tier(config, folder.text());
      std::map<std::uint64_t, std::uint64_t> waiting;  // tag = version -> number
      for (std::uint64_t version = next_version;; ++version) {
        const std::uint64_t number = mix64(version) % 500;
        const Name name = name_of(number);
        const auto payload = test::make_payload(name.key, version, 24 + mix64(version + 1) % 9000);
        waiting[version] = number;
        tier.store(version, name, payload, checksum_of(payload));
        while (waiting.size() > 8)
          for (const FileTier::Done& done : tier.poll()) {
            const std::uint64_t told[2] = {waiting.at(done.tag), done.tag};
            waiting.erase(done.tag);
            if (!done.good || ::write(ends[1], told, sizeof told) != sizeof told) ::_exit(1);
          }
      }
    }
    ::close(ends[1]);
    ::usleep(static_cast<useconds_t>(5000 + draw.below(60000)));
    ::kill(child, SIGKILL);
    std::uint64_t told[2];
    while (::read(ends[0], told, sizeof told) == sizeof told) {
      acknowledged[told[0]] = told[1];
      next_version = std::max(next_version, told[1] + 1);
    }
    ::close(ends[0]);
    int status = 0;
    ::waitpid(child, &status, 0);
    CHECK(WIFSIGNALED(status));
    next_version += 100;  // beyond what was written but never acknowledged
    RecordLog log(folder.text(), config.directory_limit.value, config.directory_segment.value,
                  config.directory_direct.value);
    CHECK(log.stats().corrupt == 0);
    CHECK(log.stats().cut <= 1u + static_cast<unsigned>(round));
    for (const auto& [number, version] : acknowledged) {
      const long long found = version_of(log, number);  // checks every byte
      CHECK(found >= static_cast<long long>(version));
      lost += found < static_cast<long long>(version);
    }
  }
  CHECK(lost == 0);
  CHECK(acknowledged.size() > 100);
}
