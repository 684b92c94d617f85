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
  const LogFolder folder;
  for (int round = 0; round < 3; ++round) {
    RecordLog log(folder.text(), limit, segment);
    for (std::uint64_t i = 0; i < 40; ++i) {
      CHECK(version_of(log, i) == (round == 0 ? -1 : i % 4 == 3 ? -1 : round - 1));
      CHECK(put(log, i, static_cast<std::uint64_t>(round), 24 + i * 50));
    }
    for (std::uint64_t i = 3; i < 40; i += 4) CHECK(log.remove(name_of(i)));
    CHECK_FALSE(log.contains(name_of(1, 2)));  // another namespace
    CHECK(log.remove(name_of(1, 2)));
    CHECK(log.sync());
    CHECK(log.stats().records == 30);
    CHECK(log.stats().recovered == (round == 0 ? 0u : 30u));
    CHECK(log.stats().corrupt + log.stats().cut + log.stats().write_errors == 0);
  }
}

TEST_CASE("equal bytes are written once") {
  const LogFolder folder;
  RecordLog log(folder.text(), limit, segment);
  CHECK(put(log, 1, 1, 1000));
  const std::uint64_t bytes = log.stats().file_bytes;
  CHECK(put(log, 1, 1, 1000));
  CHECK(log.stats().file_bytes == bytes);
}

TEST_CASE("a file cut at any place loses only the record that is cut") {
  const LogFolder folder;
  {
    RecordLog log(folder.text(), limit, segment);
    for (std::uint64_t i = 0; i < 10; ++i) put(log, i, i, 200);
  }
  const fs::path file = folder.segments().front();
  const std::uint64_t record = record_bytes(200);
  for (std::uint64_t size = fs::file_size(file); size > 0; size -= std::min<std::uint64_t>(size, 37)) {
    fs::resize_file(file, size);
    RecordLog log(folder.text(), limit, segment);
    const std::uint64_t whole = size < sizeof(SegmentHeader) ? 0 : (size - sizeof(SegmentHeader)) / record;
    for (std::uint64_t i = 0; i < 10; ++i) CHECK(version_of(log, i) == (i < whole ? static_cast<long long>(i) : -1));
  }
}

TEST_CASE("a flipped bit costs one record, is counted, and is never served") {
  const LogFolder folder;
  {
    RecordLog log(folder.text(), limit, segment);
    for (std::uint64_t i = 0; i < 10; ++i) put(log, i, i, 200);
  }
  const fs::path file = folder.segments().front();
  const std::uint64_t size = fs::file_size(file);
  for (std::uint64_t at = sizeof(SegmentHeader); at < size; at += 41) {
    const auto flip = [&] {
      std::fstream stream(file, std::ios::in | std::ios::out | std::ios::binary);
      stream.seekg(static_cast<long>(at));
      const char byte = static_cast<char>(stream.get() ^ 16);
      stream.seekp(static_cast<long>(at));
      stream.put(byte);
    };
    flip();
    {
      RecordLog log(folder.text(), limit, segment);
      int there = 0;
      for (std::uint64_t i = 0; i < 10; ++i) there += version_of(log, i) == static_cast<long long>(i);
      CHECK(there == 9);
      CHECK(log.stats().corrupt + log.stats().cut == 1);
    }
    flip();
  }
  // While it is open: found when it is read.
  RecordLog log(folder.text(), limit, segment);
  {
    std::fstream stream(file, std::ios::in | std::ios::out | std::ios::binary);
    stream.seekp(static_cast<long>(sizeof(SegmentHeader) + sizeof(RecordHeader) + 100));
    stream.put('x');
  }
  CHECK(version_of(log, 0) == -1);
  CHECK(log.stats().corrupt == 1);
  CHECK(version_of(log, 1) == 1);
}

TEST_CASE("foreign files are left alone; impossible directories are refused in one line") {
  const LogFolder folder;
  fs::create_directories(folder.path);
  std::ofstream(folder.path / "notes.txt") << "mine";
  std::ofstream(folder.path / segment_name(7)) << std::string(5000, 'z');
  {
    RecordLog log(folder.text(), limit, segment);
    CHECK(log.stats().foreign == 2);
    CHECK(put(log, 1, 1, 100));
    CHECK(version_of(log, 1) == 1);
    CHECK_THROWS_WITH(RecordLog(folder.text(), limit, segment), Contains("another process uses it"));
  }
  CHECK(fs::file_size(folder.path / segment_name(7)) == 5000);
  CHECK_THROWS_AS(RecordLog((folder.path / "notes.txt").string(), limit, segment), EnvironmentError);
  CHECK_THROWS_WITH(RecordLog("/proc/supernode-pool", limit, segment), Contains("/proc/supernode-pool"));
}

TEST_CASE("a payload that looks like records is not taken for some") {
  const LogFolder folder;
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
  {
    RecordLog log(folder.text(), limit, segment);
    CHECK(log.append(name_of(1), payload, checksum_of(payload)));
  }
  {
    std::fstream stream(folder.segments().front(), std::ios::in | std::ios::out | std::ios::binary);
    stream.seekp(sizeof(SegmentHeader) + 8);
    stream.put('x');
  }
  RecordLog log(folder.text(), limit, segment);
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
  const LogFolder folder;
  const auto write = [](RecordLog& log, std::uint64_t number, NamespaceId name_space) {
    const Name name = name_of(number, name_space);
    const std::vector<std::byte> payload = test::make_payload(name.key, 1, 1000);
    return log.append(name, payload, checksum_of(payload));
  };
  {
    RecordLog log(folder.text(), limit, segment);
    log.promise(1, 100 * record_bytes(1000));
    for (std::uint64_t i = 0; i < 100; ++i) CHECK(write(log, i, 1));
    for (std::uint64_t i = 0; i < 5000; ++i) CHECK(write(log, i, 2));  // five times the limit
    for (std::uint64_t i = 0; i < 100; ++i) CHECK(log.contains(name_of(i, 1)));
    CHECK(log.stats().forgotten > 4000);
    CHECK(log.stats().file_bytes <= limit);
    CHECK(log.remove_namespace(2));
    CHECK_FALSE(log.contains(name_of(4999, 2)));
    CHECK(log.stats().records == 100);
    CHECK(write(log, 7, 2));
  }
  {
    RecordLog log(folder.text(), limit, segment);
    for (std::uint64_t i = 0; i < 100; ++i) CHECK(log.read(name_of(i, 1)).has_value());
    CHECK(log.read(name_of(7, 2)).has_value());  // written after the removal
    CHECK(log.stats().records == 101);
    CHECK(log.remove_namespace(1));
  }
  RecordLog log(folder.text(), limit, segment);
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
