// The start of a record log: every segment is read, and what is intact comes into the index.
#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>

#include <fcntl.h>
#include <sys/file.h>

#include "memory_pool/files/namespace_file.hpp"
#include "memory_pool/files/record_log.hpp"
#include "memory_pool/format/checksum.hpp"
#include "runtime/core/error.hpp"
#include "runtime/core/log.hpp"
#include "runtime/core/new_file.hpp"

namespace supernode::pool::internal {
namespace {

EnvironmentError failure(const std::string& path) {
  return EnvironmentError("pool.directory: " + path + ": " + std::strerror(errno));
}

/// Where the next record may start, at or after `at`; `end` when nowhere.
std::uint64_t next_magic(const RecordFile& file, std::uint64_t at, std::uint64_t end) {
  std::vector<std::uint64_t> words(8192);
  for (; at + 8 <= end; at += words.size() * 8) {
    const std::size_t count = std::min<std::uint64_t>(words.size(), (end - at) / 8);
    if (!file.read(at, std::as_writable_bytes(std::span(words).first(count)))) return end;
    for (std::size_t i = 0; i < count; ++i)
      if (static_cast<std::uint32_t>(words[i]) == record_magic) return at + i * 8;
  }
  return end;
}

template <class Header>
std::span<std::byte> bytes_of(Header& header) {
  return std::as_writable_bytes(std::span(&header, 1));
}

}  // namespace

RecordLog::RecordLog(const std::string& directory, std::uint64_t limit, std::uint64_t segment_bytes,
                     std::uint64_t direct_bytes)
    : directory_(directory),
      limit_(limit),
      segment_bytes_(std::min(segment_bytes, limit / 4)),
      direct_bytes_(direct_bytes) {
  std::error_code error;
  std::filesystem::create_directories(directory_, error);
  if (error) throw EnvironmentError("pool.directory: " + directory_ + ": " + error.message());
  const std::string lock = directory_ + "/lock";
  lock_ = FileDescriptor(::open(lock.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666));
  if (!lock_) throw failure(lock);
  if (::flock(lock_.get(), LOCK_EX | LOCK_NB) != 0)
    throw EnvironmentError("pool.directory: " + directory_ + ": another process uses it");
  if (direct_bytes_ > 0 && !allows_direct(lock)) give_up_direct();
  std::vector<std::uint64_t> numbers;
  for (const auto& file : std::filesystem::directory_iterator(directory_, error)) {
    const std::string name = file.path().filename().string();
    if (name == "lock" || name == namespace_file_name) continue;
    if (is_draft_of(name, namespace_file_name)) {  // of a write that a crash has ended
      std::filesystem::remove(file.path(), error);
      continue;
    }
    const std::optional<std::uint64_t> number = segment_number(name);
    if (number) {
      numbers.push_back(*number);
      last_segment_ = std::max(last_segment_, *number);
    } else {
      ++stats_.foreign;
      log(LogLevel::warning, "pool.directory: {}: not a file of the pool, left alone", file.path().string());
    }
  }
  if (error) throw EnvironmentError("pool.directory: " + directory_ + ": " + error.message());
  std::sort(numbers.begin(), numbers.end());
  for (const std::uint64_t number : numbers) recover(number);
  removed_.clear();
  removed_namespaces_.clear();
  stats_.recovered = index_.size();
  make_room(0);
}

void RecordLog::recover(std::uint64_t number) {
  const std::string path = directory_ + "/" + segment_name(number);
  Segment segment;
  segment.file = RecordFile::open(path, direct());
  if (!segment.file.is_open()) throw failure(path);
  segment.bytes = segment.file.size();
  SegmentHeader head;
  const bool read = segment.file.read(0, bytes_of(head));
  if (!read && segment.bytes < sizeof head) {
    // Cut before its header was written: nothing was ever in it.
    ++stats_.cut;
    stats_.bytes += segment.bytes;
    segments_.emplace(number, std::move(segment));
    return;
  }
  if (!read || head.magic != segment_magic || head.sum != sum_of(head) || head.number != number ||
      head.version < oldest_format_version || head.version > format_version) {
    ++stats_.foreign;
    log(LogLevel::warning, "pool.directory: {}: not a segment of this version's pool, left alone", path);
    return;
  }
  segment.salt = head.salt;
  stats_.bytes += segment.bytes;
  bool lost = false;
  std::vector<std::byte> payload;
  for (std::uint64_t at = sizeof head; at + sizeof(RecordHeader) <= segment.bytes;) {
    RecordHeader header;
    const bool good = segment.file.read(at, bytes_of(header)) && header.magic == record_magic &&
                      header.sum == sum_of(header, segment.salt, at);
    const bool whole =
        good &&
        (header.kind == RecordKind::filler ||
         (header.length <= segment.bytes && at + record_bytes(header.length, header.placement) <= segment.bytes));
    if (!whole) {
      // A header that is damaged hides its length: look for the next one.
      if (!lost) ++stats_.cut;
      lost = true;
      at = next_magic(segment.file, at + 8, segment.bytes);
      continue;
    }
    lost = false;
    const std::uint64_t here = at;
    at += record_bytes(header.length, header.placement);
    if (header.kind == RecordKind::filler) continue;
    last_sequence_ = std::max(last_sequence_, header.sequence);
    payload.resize(header.length);
    if (header.placement == Placement::aligned) mark_aligned(segment);
    if (read_payload(segment, header.placement, here, payload) && checksum_of(payload) == header.checksum)
      take(header, number, here);
    else
      ++stats_.corrupt;
  }
  segments_.emplace(number, std::move(segment));
}

/// An intact record found at the start.
void RecordLog::take(const RecordHeader& header, std::uint64_t segment, std::uint64_t offset) {
  if (header.kind == RecordKind::namespace_removal) {
    std::uint64_t& removed = removed_namespaces_[header.name_space];
    removed = std::max(removed, header.sequence);
    Order& order = tenants_[header.name_space].order;
    for (auto entry = order.begin(); entry != order.end();) {
      const auto here = entry++;
      if (here->sequence < removed) drop(here);
    }
    return;
  }
  const Name name{header.key, header.name_space};
  const auto gone = removed_.find(name);
  if (gone != removed_.end() && gone->second > header.sequence) return;
  const auto all_gone = removed_namespaces_.find(name.name_space);
  if (all_gone != removed_namespaces_.end() && all_gone->second > header.sequence) return;
  const auto known = index_.find(name);
  if (known != index_.end()) {
    if (known->second->sequence > header.sequence) return;
    drop(known->second);
  }
  if (header.kind == RecordKind::removal)
    removed_[name] = header.sequence;
  else
    insert(header, segment, offset);
}

}  // namespace supernode::pool::internal
