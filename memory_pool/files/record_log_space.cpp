// How a record log keeps within its limit: what it forgets, and how the oldest segment is cleaned.
#include <filesystem>

#include "memory_pool/files/record_log.hpp"

namespace supernode::pool::internal {
namespace {

constexpr double keep_share = 0.7;  // live bytes of the limit: the rest is what cleaning works with

}  // namespace

/// Of the namespaces that have more than was promised to them. False when there is none.
bool RecordLog::forget_oldest() {
  Tenant* poorest = nullptr;
  for (auto& [name_space, tenant] : tenants_) {
    if (tenant.order.empty() || (poorest && tenant.order.front().used > poorest->order.front().used)) continue;
    const auto promised = promised_.find(name_space);
    if (promised == promised_.end() || tenant.room_bytes > promised->second) poorest = &tenant;
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

void RecordLog::mark_aligned(Segment& segment) {
  if (!segment.has_aligned) ++aligned_segments_;
  segment.has_aligned = true;
}

/// What must be free for cleaning: a segment is written again before it goes. Written in the order in which they lie,
/// its records take no more than they did, but for two gaps: of its first aligned record, and of the first one behind
/// the beginning of another segment. Rounds that free nothing could add these up over all segments.
std::uint64_t RecordLog::cleaning_bytes() const {
  return segment_bytes_ + sizeof(SegmentHeader) + aligned_segments_ * 2 * max_gap;
}

/// Forgets and cleans until `bytes` more fit within the limit, with a segment to spare for cleaning.
void RecordLog::make_room(std::uint64_t bytes) {
  if (stats_.bytes + bytes + cleaning_bytes() <= limit_) return;
  while (room_bytes_ + bytes > keep_bytes() && forget_oldest()) {
  }
  // Each round rewrites what lives of one segment; after all of them only live bytes are left.
  for (std::size_t rounds = segments_.size() + 1; rounds > 0; --rounds) {
    if (stats_.bytes + bytes + cleaning_bytes() <= limit_) return;
    if (!clean_oldest()) return;
  }
}

/// A block moves: it keeps its sequence, its placement and its place in the order of use.
bool RecordLog::append_again(const RecordHeader& header, std::span<const std::byte> payload) {
  std::uint64_t offset = 0;
  if (!write(header, payload, offset)) return false;
  Entry& entry = *index_.at({header.key, header.name_space});
  entry.segment = last_segment_;
  entry.offset = offset;
  return true;
}

/// @returns false when there is nothing to clean, or its live records cannot be written elsewhere.
bool RecordLog::clean_oldest() {
  if (segments_.empty()) return false;
  const std::uint64_t number = segments_.begin()->first;
  if (filling_ && number == last_segment_) {
    filling_ = false;  // what it holds moves to a new one
  }
  std::map<std::uint64_t, Name> live;  // by their place
  for (const auto& [name_space, tenant] : tenants_)
    for (const Entry& entry : tenant.order)
      if (entry.segment == number) live.emplace(entry.offset, entry.name);
  for (const auto& [place, name] : live) {
    const std::optional<Payload> payload = load(name);
    if (!payload) continue;  // counted
    RecordHeader header;
    header.key = name.key;
    header.name_space = name.name_space;
    header.placement = index_.at(name)->placement;  // another one could take more room than it leaves
    header.length = payload->bytes.size();
    header.sequence = index_.at(name)->sequence;
    header.checksum = payload->checksum;
    if (!append_again(header, payload->bytes)) return false;
  }
  if (!live.empty() && !sync()) return false;  // before the only other copy goes
  std::error_code ignored;
  std::filesystem::remove(directory_ + "/" + segment_name(number), ignored);
  stats_.bytes -= segments_.begin()->second.bytes;
  aligned_segments_ -= segments_.begin()->second.has_aligned ? 1 : 0;
  segments_.erase(segments_.begin());
  ++stats_.cleanings;
  return true;
}

}  // namespace supernode::pool::internal
