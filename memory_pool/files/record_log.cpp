#include "memory_pool/files/record_log.hpp"

#include <filesystem>
#include <random>
#include <utility>

#include "memory_pool/format/checksum.hpp"
#include "runtime/core/log.hpp"

namespace supernode::pool::internal {

/// A block that is not in the index, as the most recently used.
void RecordLog::insert(const RecordHeader& header, std::uint64_t segment, std::uint64_t offset) {
  const Name name{header.key, header.name_space};
  Tenant& tenant = tenants_[header.name_space];
  tenant.order.push_back(
      {name, segment, offset, header.length, header.sequence, header.checksum, header.placement, ++clock_});
  index_[name] = std::prev(tenant.order.end());
  ++stats_.records;
  stats_.live_bytes += record_bytes(header.length, header.placement);
  tenant.room_bytes += room_bytes(header.length, header.placement);
  room_bytes_ += room_bytes(header.length, header.placement);
}

void RecordLog::use(Order::iterator entry) {
  Order& order = tenants_[entry->name.name_space].order;
  order.splice(order.end(), order, entry);
  entry->used = ++clock_;
}

void RecordLog::drop(Order::iterator entry) {
  Tenant& tenant = tenants_[entry->name.name_space];
  --stats_.records;
  stats_.live_bytes -= record_bytes(entry->length, entry->placement);
  tenant.room_bytes -= room_bytes(entry->length, entry->placement);
  room_bytes_ -= room_bytes(entry->length, entry->placement);
  index_.erase(entry->name);
  tenant.order.erase(entry);
}

bool RecordLog::open_segment() {
  const std::uint64_t number = last_segment_ + 1;
  const std::string path = directory_ + "/" + segment_name(number);
  Segment segment;
  segment.file = RecordFile::create(path, direct());
  if (!segment.file.is_open()) return false;
  SegmentHeader head;
  head.number = number;
  std::random_device random;
  head.salt = segment.salt = (std::uint64_t{random()} << 32) | random();
  head.sum = sum_of(head);
  if (!segment.file.write(0, std::as_bytes(std::span(&head, 1)))) {
    std::error_code ignored;
    std::filesystem::remove(path, ignored);
    return false;
  }
  sync_folder(directory_);  // the name of a new file is part of what sync() promises
  if (filling_) sync_filled();
  segment.bytes = sizeof head;
  stats_.bytes += segment.bytes;
  segments_.emplace(number, std::move(segment));
  last_segment_ = number;
  filling_ = true;
  return true;
}

/// Aligned where the record is large enough to gain by it, and its padding leaves it room in a segment.
Placement RecordLog::placement_of(std::uint64_t length) const {
  constexpr std::uint64_t first = sizeof(SegmentHeader) + gap_before(sizeof(SegmentHeader), Placement::aligned);
  const bool large = direct_bytes_ > 0 && length >= direct_bytes_;
  return large && first + record_bytes(length, Placement::aligned) <= segment_bytes_ ? Placement::aligned
                                                                                     : Placement::packed;
}

bool RecordLog::write(RecordHeader header, std::span<const std::byte> payload, std::uint64_t& offset) {
  const std::uint64_t bytes = record_bytes(header.length, header.placement);
  const auto end = [&] {
    const std::uint64_t at = segments_.rbegin()->second.bytes;
    return at + gap_before(at, header.placement) + bytes;
  };
  if (!(filling_ && end() <= segment_bytes_) && !open_segment()) return false;
  Segment& segment = segments_.rbegin()->second;
  const std::uint64_t start = segment.bytes;
  offset = end() - bytes;
  header.sum = sum_of(header, segment.salt, offset);
  const bool aligned = header.placement == Placement::aligned;
  const bool good = write_filler(segment, offset - start) && (aligned ? write_aligned(segment, header, payload, offset)
                                                                      : write_packed(segment, header, payload, offset));
  if (!good) {
    // What has been written of it is cut off again, so that the next record finds its place and, perhaps, its room.
    if (!segment.file.cut(start)) {
      sync_filled();
      filling_ = false;
    }
    return false;
  }
  if (aligned) mark_aligned(segment);
  segment.bytes = offset + bytes;
  stats_.bytes += segment.bytes - start;
  return true;
}

/// What keeps a gap from being taken for damage. Only its header is written; the rest is a hole in the file.
bool RecordLog::write_filler(Segment& segment, std::uint64_t gap) {
  if (gap == 0) return true;
  RecordHeader filler;
  filler.kind = RecordKind::filler;
  filler.length = gap - sizeof filler;
  filler.sum = sum_of(filler, segment.salt, segment.bytes);
  return segment.file.write(segment.bytes, std::as_bytes(std::span(&filler, 1)));
}

bool RecordLog::write_packed(Segment& segment, const RecordHeader& header, std::span<const std::byte> payload,
                             std::uint64_t offset) {
  constexpr std::byte padding[8] = {};
  const std::uint64_t end = offset + sizeof header + payload.size();
  // The header last: a record that a crash cuts short has none.
  return segment.file.write(offset + sizeof header, payload) &&
         segment.file.write(end, std::span(padding).first(offset + record_bytes(header.length) - end)) &&
         segment.file.write(offset, std::as_bytes(std::span(&header, 1)));
}

/// From the header on: a record that a crash cuts short ends before its header says, or fails its checksum.
bool RecordLog::write_aligned(Segment& segment, const RecordHeader& header, std::span<const std::byte> payload,
                              std::uint64_t offset) {
  const bool good = segment.file.write_direct(offset, std::as_bytes(std::span(&header, 1)), payload, buffer_);
  note_direct(segment, good);
  return good;
}

/// The payload of the record at `offset`.
bool RecordLog::read_payload(Segment& segment, Placement placement, std::uint64_t offset, std::span<std::byte> to) {
  if (placement == Placement::packed) return segment.file.read(offset + sizeof(RecordHeader), to);
  const bool good = segment.file.read_direct(offset + sizeof(RecordHeader), to, buffer_);
  note_direct(segment, good);
  return good;
}

/// After a transfer that was to go past the page cache.
void RecordLog::note_direct(const Segment& segment, bool good) {
  if (!segment.file.direct() && direct_bytes_ > 0) give_up_direct();
  if (segment.file.direct() && good) ++stats_.direct;
}

void RecordLog::give_up_direct() {
  direct_bytes_ = 0;
  stats_.direct_refused = 1;
  log(LogLevel::info, "pool.directory: {}: O_DIRECT is refused there, large blocks go through the page cache",
      directory_);
}

bool RecordLog::append(RecordHeader header, std::span<const std::byte> payload) {
  if (record_bytes(header.length) + sizeof(SegmentHeader) > segment_bytes_) return false;
  header.placement = placement_of(header.length);
  make_room(room_bytes(header.length, header.placement));
  header.sequence = ++last_sequence_;
  const Name name{header.key, header.name_space};
  std::uint64_t offset = 0;
  if (!write(header, payload, offset)) return false;
  if (header.kind == RecordKind::namespace_removal) return true;
  const auto known = index_.find(name);
  if (header.kind == RecordKind::removal) {
    if (known != index_.end()) drop(known->second);
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
  if (append(header, payload)) return true;
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
  if (append(header, {})) return true;
  ++stats_.write_errors;
  return false;
}

/// Of the segment that nothing more goes into. The system tells of a failure once, so it is kept for sync().
void RecordLog::sync_filled() {
  if (!segments_.rbegin()->second.file.sync()) sync_failed_ = true;
}

bool RecordLog::sync() {
  const bool failed = std::exchange(sync_failed_, false);
  if (!filling_) return !failed;
  ++stats_.syncs;
  return segments_.rbegin()->second.file.sync() && !failed;
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
  if (read_payload(segments_.at(entry.segment), entry.placement, entry.offset, payload.bytes) &&
      checksum_of(payload.bytes) == entry.checksum)
    return payload;
  ++stats_.corrupt;
  drop(known->second);
  return std::nullopt;
}

}  // namespace supernode::pool::internal
