#include "memory_pool/internal/record_log.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <random>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/uio.h>
#include <unistd.h>

#include "memory_pool/internal/checksum.hpp"
#include "memory_pool/internal/namespace_file.hpp"
#include "runtime/core/error.hpp"
#include "runtime/core/log.hpp"

namespace supernode::pool::internal {
namespace {

constexpr double keep_share = 0.7;  // live bytes of the limit: the rest is what cleaning works with

EnvironmentError failure(const std::string& path) {
  return EnvironmentError("pool.directory: " + path + ": " + std::strerror(errno));
}

bool read_at(int file, std::uint64_t offset, std::span<std::byte> to) {
  while (!to.empty()) {
    const ssize_t got = ::pread(file, to.data(), to.size(), static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return false;
    to = to.subspan(static_cast<std::size_t>(got));
    offset += static_cast<std::uint64_t>(got);
  }
  return true;
}

bool write_at(int file, std::uint64_t offset, std::span<const std::byte> from) {
  while (!from.empty()) {
    const ssize_t put = ::pwrite(file, from.data(), from.size(), static_cast<off_t>(offset));
    if (put < 0 && errno == EINTR) continue;
    if (put <= 0) return false;
    from = from.subspan(static_cast<std::size_t>(put));
    offset += static_cast<std::uint64_t>(put);
  }
  return true;
}

std::span<std::byte> bytes_of_any(void* data, std::size_t bytes) { return {static_cast<std::byte*>(data), bytes}; }

/// Where the next record may start, at or after `at`; `end` when nowhere.
std::uint64_t next_magic(int file, std::uint64_t at, std::uint64_t end) {
  std::vector<std::uint64_t> words(8192);
  for (; at + 8 <= end; at += words.size() * 8) {
    const std::size_t count = std::min<std::uint64_t>(words.size(), (end - at) / 8);
    if (!read_at(file, at, bytes_of_any(words.data(), count * 8))) return end;
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

RecordLog::RecordLog(const std::string& directory, std::uint64_t limit, std::uint64_t segment_bytes)
    : directory_(directory), limit_(limit), segment_bytes_(std::min(segment_bytes, limit / 4)) {
  std::error_code error;
  std::filesystem::create_directories(directory_, error);
  if (error) throw EnvironmentError("pool.directory: " + directory_ + ": " + error.message());
  const std::string lock = directory_ + "/lock";
  lock_ = ::open(lock.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (lock_ < 0) throw failure(lock);
  if (::flock(lock_, LOCK_EX | LOCK_NB) != 0) {
    ::close(lock_);
    throw EnvironmentError("pool.directory: " + directory_ + ": another process uses it");
  }
  std::vector<std::uint64_t> numbers;
  for (const auto& file : std::filesystem::directory_iterator(directory_, error)) {
    const std::string name = file.path().filename().string();
    if (name == "lock" || name == namespace_file_name || name == namespace_file_draft) continue;
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

RecordLog::~RecordLog() {
  for (const auto& [number, segment] : segments_) ::close(segment.file);
  ::close(lock_);
}

void RecordLog::recover(std::uint64_t number) {
  const std::string path = directory_ + "/" + segment_name(number);
  Segment segment;
  segment.file = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (segment.file < 0) segment.file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (segment.file < 0) throw failure(path);
  const off_t end = ::lseek(segment.file, 0, SEEK_END);
  segment.bytes = end < 0 ? 0 : static_cast<std::uint64_t>(end);
  SegmentHeader head;
  const bool read = read_at(segment.file, 0, bytes_of(head));
  if (!read && segment.bytes < sizeof head) {
    // Cut before its header was written: nothing was ever in it.
    ++stats_.cut;
    segments_.emplace(number, segment);
    stats_.file_bytes += segment.bytes;
    return;
  }
  if (!read || head.magic != segment_magic || head.sum != sum_of(head) || head.number != number ||
      head.version != format_version) {
    ++stats_.foreign;
    log(LogLevel::warning, "pool.directory: {}: not a segment of this version's pool, left alone", path);
    ::close(segment.file);
    return;
  }
  segment.salt = head.salt;
  segments_.emplace(number, segment);
  stats_.file_bytes += segment.bytes;
  bool lost = false;
  std::vector<std::byte> payload;
  for (std::uint64_t at = sizeof head; at + sizeof(RecordHeader) <= segment.bytes;) {
    RecordHeader header;
    const bool good = read_at(segment.file, at, bytes_of(header)) && header.magic == record_magic &&
                      header.sum == sum_of(header, segment.salt, at) && header.length <= segment.bytes &&
                      at + sizeof header + header.length <= segment.bytes;
    if (!good) {
      // A header that is damaged hides its length: look for the next one.
      if (!lost) ++stats_.cut;
      lost = true;
      at = next_magic(segment.file, at + 8, segment.bytes);
      continue;
    }
    lost = false;
    last_sequence_ = std::max(last_sequence_, header.sequence);
    payload.resize(header.length);
    if (read_at(segment.file, at + sizeof header, payload) && checksum_of(payload) == header.checksum)
      take(header, number, at);
    else
      ++stats_.corrupt;
    at += record_bytes(header.length);
  }
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

/// A block that is not in the index, as the most recently used.
void RecordLog::insert(const RecordHeader& header, std::uint64_t segment, std::uint64_t offset) {
  const Name name{header.key, header.name_space};
  Tenant& tenant = tenants_[header.name_space];
  tenant.order.push_back({name, segment, offset, header.length, header.sequence, header.checksum, ++clock_});
  index_[name] = std::prev(tenant.order.end());
  ++stats_.records;
  stats_.live_bytes += record_bytes(header.length);
  tenant.live_bytes += record_bytes(header.length);
}

void RecordLog::use(Order::iterator entry) {
  Order& order = tenants_[entry->name.name_space].order;
  order.splice(order.end(), order, entry);
  entry->used = ++clock_;
}

void RecordLog::drop(Order::iterator entry) {
  Tenant& tenant = tenants_[entry->name.name_space];
  --stats_.records;
  stats_.live_bytes -= record_bytes(entry->length);
  tenant.live_bytes -= record_bytes(entry->length);
  index_.erase(entry->name);
  tenant.order.erase(entry);
}

/// Of the namespaces that have more than was promised to them. False when there is none.
bool RecordLog::forget_oldest() {
  Tenant* poorest = nullptr;
  for (auto& [name_space, tenant] : tenants_) {
    if (tenant.order.empty() || (poorest && tenant.order.front().used > poorest->order.front().used)) continue;
    const auto promised = promised_.find(name_space);
    if (promised == promised_.end() || tenant.live_bytes > promised->second) poorest = &tenant;
  }
  if (!poorest) return false;
  ++stats_.forgotten;
  drop(poorest->order.begin());
  return true;
}

std::uint64_t RecordLog::keep_bytes() const {
  const auto keep = static_cast<std::uint64_t>(keep_share * static_cast<double>(limit_));
  return keep > segment_bytes_ ? keep - segment_bytes_ : 0;
}

bool RecordLog::open_segment() {
  const std::uint64_t number = last_segment_ + 1;
  const std::string path = directory_ + "/" + segment_name(number);
  Segment segment;
  segment.file = ::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  if (segment.file < 0) return false;
  SegmentHeader head;
  head.number = number;
  std::random_device random;
  head.salt = segment.salt = (std::uint64_t{random()} << 32) | random();
  head.sum = sum_of(head);
  if (!write_at(segment.file, 0, bytes_of(head))) {
    ::close(segment.file);
    ::unlink(path.c_str());
    return false;
  }
  // The name of a new file is part of what sync() promises.
  const int folder = ::open(directory_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder >= 0) {
    ::fsync(folder);
    ::close(folder);
  }
  if (filling_ && !segments_.empty()) ::fdatasync(segments_.rbegin()->second.file);
  segment.bytes = sizeof head;
  stats_.file_bytes += segment.bytes;
  segments_.emplace(number, segment);
  last_segment_ = number;
  filling_ = true;
  return true;
}

bool RecordLog::write(RecordHeader header, std::span<const std::byte> payload, std::uint64_t& offset) {
  const std::uint64_t bytes = record_bytes(header.length);
  const bool fits = filling_ && segments_.rbegin()->second.bytes + bytes <= segment_bytes_;
  if (!fits && !open_segment()) return false;
  Segment& segment = segments_.rbegin()->second;
  offset = segment.bytes;
  header.sum = sum_of(header, segment.salt, offset);
  constexpr std::byte padding[8] = {};
  // The header last: a record that a crash cuts short has none.
  const bool good = write_at(segment.file, offset + sizeof header, payload) &&
                    write_at(segment.file, offset + sizeof header + payload.size(),
                             std::span(padding).first(bytes - sizeof header - payload.size())) &&
                    write_at(segment.file, offset, std::as_bytes(std::span(&header, 1)));
  if (!good) {
    // What has been written of it is cut off again, so that the next record finds its place and, perhaps, its room.
    if (::ftruncate(segment.file, static_cast<off_t>(offset)) != 0) filling_ = false;
    return false;
  }
  segment.bytes += bytes;
  stats_.file_bytes += bytes;
  return true;
}

bool RecordLog::append(RecordHeader header, std::span<const std::byte> payload, bool cleaning) {
  if (!cleaning) {
    if (record_bytes(header.length) + sizeof(SegmentHeader) > segment_bytes_) return false;
    make_room(record_bytes(header.length));
    header.sequence = ++last_sequence_;
  }
  const Name name{header.key, header.name_space};
  std::uint64_t offset = 0;
  if (!write(header, payload, offset)) return false;
  if (header.kind == RecordKind::namespace_removal) return true;
  const auto known = index_.find(name);
  if (header.kind == RecordKind::removal) {
    if (known != index_.end()) drop(known->second);
    return true;
  }
  if (cleaning) {  // the order of use stays
    known->second->segment = last_segment_;
    known->second->offset = offset;
    return true;
  }
  if (known != index_.end()) drop(known->second);
  insert(header, last_segment_, offset);
  return true;
}

bool RecordLog::append(const Name& name, std::span<const std::byte> payload, std::uint64_t checksum) {
  if (const auto known = index_.find(name);
      known != index_.end() && known->second->checksum == checksum && known->second->length == payload.size()) {
    use(known->second);
    return true;
  }
  RecordHeader header;
  header.key = name.key;
  header.name_space = name.name_space;
  header.length = payload.size();
  header.checksum = checksum;
  return append_or_drop(header, payload);
}

bool RecordLog::append_or_drop(const RecordHeader& header, std::span<const std::byte> payload) {
  if (append(header, payload, false)) return true;
  ++stats_.write_errors;
  // An older version must not be served in the place of this one.
  const auto known = index_.find({header.key, header.name_space});
  if (known != index_.end()) drop(known->second);
  return false;
}

bool RecordLog::remove(const Name& name) {
  // Also for names that are not in the index: a forgotten record of it may still stand in a file.
  if (segments_.empty()) return true;
  RecordHeader header;
  header.kind = RecordKind::removal;
  header.key = name.key;
  header.name_space = name.name_space;
  header.checksum = checksum_of({});
  return append_or_drop(header, {});
}

void RecordLog::remove_if(const std::function<bool(const Key&)>& gone) {
  std::vector<Name> names;
  for (const auto& [name, entry] : index_)
    if (gone(name.key)) names.push_back(name);
  for (const Name& name : names) remove(name);
}

bool RecordLog::remove_namespace(NamespaceId name_space) {
  promised_.erase(name_space);
  Order& order = tenants_[name_space].order;
  while (!order.empty()) drop(order.begin());
  tenants_.erase(name_space);
  if (segments_.empty()) return true;
  RecordHeader header;
  header.kind = RecordKind::namespace_removal;
  header.name_space = name_space;
  header.checksum = checksum_of({});
  if (append(header, {}, false)) return true;
  ++stats_.write_errors;
  return false;
}

bool RecordLog::sync() {
  if (!filling_) return true;
  ++stats_.syncs;
  return ::fdatasync(segments_.rbegin()->second.file) == 0;
}

std::optional<RecordLog::Payload> RecordLog::read(const Name& name) {
  std::optional<Payload> payload = load(name);
  if (payload) use(index_.at(name));
  return payload;
}

std::optional<RecordLog::Payload> RecordLog::load(const Name& name) {
  const auto known = index_.find(name);
  if (known == index_.end()) return std::nullopt;
  const Entry& entry = *known->second;
  Payload payload;
  payload.bytes.resize(entry.length);
  payload.checksum = entry.checksum;
  if (read_at(segments_.at(entry.segment).file, entry.offset + sizeof(RecordHeader), payload.bytes) &&
      checksum_of(payload.bytes) == entry.checksum)
    return payload;
  ++stats_.corrupt;
  drop(known->second);
  return std::nullopt;
}

/// Forgets and cleans until `bytes` more fit within the limit, with a segment to spare for cleaning.
void RecordLog::make_room(std::uint64_t bytes) {
  if (stats_.file_bytes + bytes + segment_bytes_ + sizeof(SegmentHeader) <= limit_) return;
  while (stats_.live_bytes + bytes > keep_bytes() && forget_oldest()) {
  }
  // Each round rewrites what lives of one segment; after all of them only live bytes are left.
  for (std::size_t rounds = segments_.size() + 1; rounds > 0; --rounds) {
    if (stats_.file_bytes + bytes + segment_bytes_ + sizeof(SegmentHeader) <= limit_) return;
    if (!clean_oldest()) return;
  }
}

/// @returns false when there is nothing to clean, or its live records cannot be written elsewhere.
bool RecordLog::clean_oldest() {
  if (segments_.empty()) return false;
  const std::uint64_t number = segments_.begin()->first;
  if (filling_ && number == last_segment_) {
    filling_ = false;  // what it holds moves to a new one
  }
  std::vector<Name> live;
  for (const auto& [name_space, tenant] : tenants_)
    for (const Entry& entry : tenant.order)
      if (entry.segment == number) live.push_back(entry.name);
  for (const Name& name : live) {
    const std::optional<Payload> payload = load(name);
    if (!payload) continue;  // counted
    RecordHeader header;
    header.key = name.key;
    header.name_space = name.name_space;
    header.length = payload->bytes.size();
    header.sequence = index_.at(name)->sequence;
    header.checksum = payload->checksum;
    if (!append(header, payload->bytes, true)) return false;
  }
  if (!live.empty() && !sync()) return false;  // before the only other copy goes
  const Segment oldest = segments_.begin()->second;
  ::close(oldest.file);
  ::unlink((directory_ + "/" + segment_name(number)).c_str());
  stats_.file_bytes -= oldest.bytes;
  segments_.erase(segments_.begin());
  ++stats_.cleanings;
  return true;
}

}  // namespace supernode::pool::internal
