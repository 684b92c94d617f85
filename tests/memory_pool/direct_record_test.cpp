// Records that pass by the page cache: where they lie, what a restart makes of damaged ones, and formats of before.
#include <fstream>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "tests/memory_pool/log_fixture.hpp"
#include "tests/memory_pool/random_log_work.hpp"

using namespace supernode;
using namespace supernode::pool;
using namespace supernode::pool::internal;
using namespace supernode::test;
namespace fs = std::filesystem;

namespace {

constexpr std::uint64_t limit = 8 << 20, segment = 1 << 20, direct = 16 << 10;
constexpr std::uint64_t header = sizeof(RecordHeader);

/// A small record, two direct ones, a small one; all in one segment. What lies where:
struct Mixed {
  static constexpr std::uint64_t small = 200, large = 20000;
  static constexpr std::uint64_t filler = sizeof(SegmentHeader) + record_bytes(small);
  static constexpr std::uint64_t first = record_alignment;
  static constexpr std::uint64_t second = first + record_bytes(large, Placement::aligned);
  static constexpr std::uint64_t last = second + record_bytes(large, Placement::aligned);
  static constexpr std::uint64_t end = last + record_bytes(small);

  explicit Mixed(const LogFolder& folder) {
    RecordLog log(folder.text(), limit, segment, direct);
    CHECK(put(log, 0, 1, small));
    CHECK(put(log, 1, 1, large));
    CHECK(put(log, 2, 1, large));
    CHECK(put(log, 3, 1, small));
    file = folder.segments().front();
    CHECK(fs::file_size(file) == end);
  }
  fs::path file;
};

void flip_byte(const fs::path& file, std::uint64_t at) {
  std::fstream stream(file, std::ios::in | std::ios::out | std::ios::binary);
  stream.seekg(static_cast<std::streamoff>(at));
  const char byte = static_cast<char>(stream.get() ^ 16);
  stream.seekp(static_cast<std::streamoff>(at));
  stream.put(byte);
}

std::uint64_t resident_pages(const fs::path& file) {
  const std::size_t bytes = fs::file_size(file);
  const int descriptor = ::open(file.c_str(), O_RDONLY | O_CLOEXEC);
  void* memory = ::mmap(nullptr, bytes, PROT_READ, MAP_SHARED, descriptor, 0);
  ::close(descriptor);
  const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  std::vector<unsigned char> resident((bytes + page - 1) / page);
  REQUIRE(::mincore(memory, bytes, resident.data()) == 0);
  ::munmap(memory, bytes);
  return static_cast<std::uint64_t>(std::count_if(resident.begin(), resident.end(), [](int r) { return r & 1; }));
}

}  // namespace

TEST_CASE("a gap in front of an aligned record has room for a header, or is none") {
  for (std::uint64_t at = sizeof(SegmentHeader); at < 3 * record_alignment; at += 8) {
    const std::uint64_t gap = gap_before(at, Placement::aligned);
    CHECK((at + gap) % record_alignment == 0);
    CHECK((gap == 0 || gap >= header));
    CHECK(gap <= max_gap);
    CHECK(gap_before(at, Placement::packed) == 0);
  }
}

TEST_CASE("records of all sizes around the threshold, pages and the buffer come back, after a restart, too") {
  const LogFolder folder;
  std::vector<std::uint64_t> sizes{24, 100, 4096, direct - 1, direct, direct + 1};
  for (const std::uint64_t bytes :
       {5 * record_alignment, std::uint64_t{DirectBuffer::size_bytes}, std::uint64_t{2 * DirectBuffer::size_bytes}})
    for (const std::uint64_t size :
         {bytes - header - 1, bytes - header, bytes - header + 1, bytes - 1, bytes, bytes + 1})
      sizes.push_back(size);
  for (std::uint64_t round = 0; round < 3; ++round) {
    RecordLog log(folder.text(), 256 << 20, 16 << 20, round == 2 ? 0 : direct);
    for (std::uint64_t i = 0; i < 2 * sizes.size(); ++i) {
      CHECK(version_of(log, i) == static_cast<long long>(round) - 1);
      // Large after large, small after large, and large after small.
      CHECK(put(log, i, round, sizes[i < sizes.size() ? i : (7 * i) % sizes.size()]));
      CHECK(version_of(log, i) == static_cast<long long>(round));
    }
    CHECK(log.stats().records == 2 * sizes.size());
    CHECK(log.stats().recovered == (round == 0 ? 0 : 2 * sizes.size()));
    CHECK(log.stats().cut + log.stats().corrupt + log.stats().write_errors == 0);
    CHECK((log.stats().direct > 0) == (round < 2 && log.stats().direct_refused == 0));
  }
}

TEST_CASE("a large record leaves nothing in the page cache, written or read") {
  const LogFolder folder;
  RecordLog log(folder.text(), 256 << 20, 16 << 20, direct);
  for (std::uint64_t i = 0; i < 8; ++i) CHECK(put(log, i, 1, 1 << 20));
  for (std::uint64_t i = 0; i < 8; ++i) CHECK(version_of(log, i) == 1);
  struct statfs system;
  REQUIRE(::statfs(folder.path.c_str(), &system) == 0);
  constexpr auto tmpfs = 0x01021994;
  if (log.stats().direct_refused == 1 || system.f_type == tmpfs) {
    WARN("skipped: no O_DIRECT in the temporary directory");
    return;
  }
  CHECK(log.stats().direct == 16);
  CHECK(resident_pages(folder.segments().front()) < 16);  // the segment's header, and what is read ahead of it
}

TEST_CASE("a file with direct records that is cut at any place loses only what is cut") {
  const LogFolder folder;
  const Mixed mixed(folder);
  std::vector<std::uint64_t> sizes;
  for (const std::uint64_t edge :
       {Mixed::filler, Mixed::filler + header, Mixed::first, Mixed::first + 512, Mixed::first + header,
        Mixed::first + header + Mixed::large, Mixed::second, Mixed::second + header, Mixed::second + record_alignment,
        Mixed::second + header + Mixed::large, Mixed::last, Mixed::last + header, Mixed::end})
    for (const std::uint64_t size : {edge - 8, edge - 1, edge, edge + 1, edge + 8})
      if (size <= Mixed::end) sizes.push_back(size);
  std::sort(sizes.rbegin(), sizes.rend());
  std::uint64_t written = 10;
  for (const std::uint64_t size : sizes) {
    fs::resize_file(mixed.file, size);
    const auto kept = [size](std::uint64_t end) { return size >= end ? 1 : -1; };
    RecordLog log(folder.text(), limit, segment, direct);
    CHECK(version_of(log, 0) == kept(Mixed::filler));
    CHECK(version_of(log, 1) == kept(Mixed::second));
    CHECK(version_of(log, 2) == kept(Mixed::last));
    CHECK(version_of(log, 3) == kept(Mixed::end));
    CHECK(log.stats().corrupt == 0);
    // A filler whose record never came is no damage; less than a header at the end is not looked at.
    if (size >= Mixed::filler + header && size <= Mixed::first) CHECK(log.stats().cut == 0);
    if (size >= Mixed::first + header && size < Mixed::second) CHECK(log.stats().cut == 1);
    // What is written after that is found by the next start.
    CHECK(put(log, written++, 1, Mixed::large));
    for (std::uint64_t i = 10; i < written; ++i) CHECK(version_of(log, i) == 1);
  }
}

TEST_CASE("a flipped bit costs the record that it is in, and none where it means nothing") {
  const LogFolder folder;
  const Mixed mixed(folder);
  struct Region {
    std::uint64_t begin, end;
    int lost;
    bool header;
  };
  const Region regions[] = {{Mixed::filler, Mixed::filler + header, -1, true},
                            {Mixed::filler + header, Mixed::first, -1, false},
                            {Mixed::first, Mixed::first + header, 1, true},
                            {Mixed::first + header, Mixed::first + header + Mixed::large, 1, false},
                            {Mixed::first + header + Mixed::large, Mixed::second, -1, false},
                            {Mixed::second, Mixed::second + header, 2, true},
                            {Mixed::second + header, Mixed::second + header + Mixed::large, 2, false},
                            {Mixed::second + header + Mixed::large, Mixed::last, -1, false}};
  for (const Region& region : regions)
    for (std::uint64_t at = region.begin; at < region.end; at += std::max<std::uint64_t>(7, (region.end - at) / 2)) {
      flip_byte(mixed.file, at);
      {
        RecordLog log(folder.text(), limit, segment, direct);
        for (int i = 0; i < 4; ++i)
          CHECK(version_of(log, static_cast<std::uint64_t>(i)) == (i == region.lost ? -1 : 1));
        CHECK(log.stats().cut == (region.header ? 1u : 0u));
        CHECK(log.stats().corrupt == (region.lost >= 0 && !region.header ? 1u : 0u));
      }
      flip_byte(mixed.file, at);
    }
  RecordLog log(folder.text(), limit, segment, direct);
  flip_byte(mixed.file, Mixed::second + 5000);  // while it is open: found when it is read
  CHECK(version_of(log, 2) == -1);
  CHECK(log.stats().corrupt == 1);
  CHECK(version_of(log, 1) == 1);
}

TEST_CASE("a direct record of which only a part reached the disk is not served, and those behind it are") {
  for (const auto& [from, bytes] : {std::pair{Mixed::first, record_alignment},  // its header among it
                                    std::pair{Mixed::first + 2 * record_alignment, 2 * record_alignment}}) {
    const LogFolder folder;
    const Mixed mixed(folder);
    {
      std::fstream stream(mixed.file, std::ios::in | std::ios::out | std::ios::binary);
      stream.seekp(static_cast<std::streamoff>(from));
      stream << std::string(bytes, '\0');
    }
    RecordLog log(folder.text(), limit, segment, direct);
    CHECK(version_of(log, 0) == 1);
    CHECK(version_of(log, 1) == -1);
    CHECK(version_of(log, 2) == 1);
    CHECK(version_of(log, 3) == 1);
    CHECK(log.stats().cut + log.stats().corrupt == 1);
  }
}

TEST_CASE("a file of version 1 is read and cleaned beside those of this version; a later one is left alone") {
  const LogFolder folder;
  fs::create_directories(folder.path);
  const auto write_segment = [&](std::uint64_t number, std::uint32_t version, std::uint64_t first_sequence) {
    SegmentHeader head;
    head.version = version;
    head.number = number;
    head.salt = 4711 * number;
    head.sum = sum_of(head);
    std::ofstream file(folder.path / segment_name(number), std::ios::binary);
    file.write(reinterpret_cast<const char*>(&head), sizeof head);
    for (std::uint64_t i = 0; i < 6; ++i) {
      const std::vector<std::byte> payload = make_payload(key_number(i), 1, i % 2 == 0 ? 100 + i : 30000 + i);
      RecordHeader record;
      record.key = key_number(i);
      record.name_space = 1;
      record.length = payload.size();
      record.sequence = first_sequence + i;
      record.checksum = checksum_of(payload);
      record.sum = sum_of(record, head.salt, static_cast<std::uint64_t>(file.tellp()));
      file.write(reinterpret_cast<const char*>(&record), sizeof record);
      file.write(reinterpret_cast<const char*>(payload.data()), static_cast<std::streamsize>(payload.size()));
      file.write("\0\0\0\0\0\0\0", static_cast<std::streamsize>(-payload.size() % 8));
    }
  };
  write_segment(1, 1, 1);
  write_segment(2, 3, 7);
  for (int round = 0; round < 2; ++round) {
    RecordLog log(folder.text(), limit, segment, direct);
    CHECK(log.stats().foreign == 1);
    CHECK(log.stats().recovered == (round == 0 ? 6u : 7u));
    CHECK(log.stats().cut + log.stats().corrupt == 0);
    for (std::uint64_t i = 0; i < 6; ++i) CHECK(version_of(log, i) == (i == 1 && round == 1 ? 2 : 1));
    CHECK(put(log, 1, 2, 40000));
    CHECK(put(log, 6, 1, 40000));
    CHECK(log.stats().direct + log.stats().direct_refused > 0);
  }
  RecordLog log(folder.text(), limit, segment, direct);
  for (std::uint64_t i = 100; fs::exists(folder.path / segment_name(1)); ++i) {
    REQUIRE(i < 1000);
    CHECK(put(log, i, 1, 50000));
    for (const std::uint64_t kept : {0, 1, 2, 3, 4, 5}) CHECK(version_of(log, kept) == (kept == 1 ? 2 : 1));
  }
  CHECK(fs::exists(folder.path / segment_name(2)));
}

TEST_CASE("files with small and direct records stay within their limit, and what was removed never comes back") {
  constexpr std::uint64_t small_limit = 1 << 20, small_segment = 1 << 16;
  for (const std::uint64_t threshold : {1, 4096, 12000}) {
    const LogFolder folder;
    RandomLogWork work{
        .keys = 300,
        .limit = small_limit,
        .draw_bytes = [](Random& draw) { return 24 + (draw.uniform() < 0.5 ? draw.below(300) : draw.below(24000)); },
        .pinned = {5000, 5001}};
    for (int round = 0; round < 2; ++round) {
      RecordLog log(folder.text(), small_limit, small_segment, threshold);
      Random draw(7, static_cast<std::uint64_t>(round));
      work.check_what_came_back(log);
      put(log, 5000, 1, 3000);
      put(log, 5001, 1, 13000);
      work.run(log, folder, 500, draw);
    }
  }
}
