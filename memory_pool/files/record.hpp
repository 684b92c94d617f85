#pragma once
// What stands in a segment file of the file tier. Little-endian, as the machine's. README.md describes it for people.

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "memory_pool/key.hpp"

namespace supernode::pool::internal {

constexpr std::uint64_t segment_magic = 0x314c4f4f504e5053ull;  // "SPNPOOL1"
constexpr std::uint32_t record_magic = 0xb10c5afe;
constexpr std::uint32_t format_version = 2;
constexpr std::uint32_t oldest_format_version = 1;  // had neither aligned records nor fillers; is read, never written

/// The first bytes of a file.
struct SegmentHeader {
  std::uint64_t magic = segment_magic;
  std::uint32_t version = format_version;
  std::uint32_t unused = 0;
  std::uint64_t number = 0;  ///< as in the file's name
  std::uint64_t salt = 0;    ///< random: payloads cannot be made to look like records, since nobody knows it
  std::uint64_t sum = 0;     ///< XXH3-64 of the 32 bytes above
};
static_assert(sizeof(SegmentHeader) == 40);

enum class RecordKind : std::uint32_t {
  block = 1,
  removal = 2,            ///< of the key
  namespace_removal = 3,  ///< of all keys of the namespace; no key, no payload
  filler = 4,  ///< the gap in front of an aligned record; its payload means nothing, and may reach beyond the
               ///< file's end, when the record behind it was not written any more
};

/// Where a record may start, and to a multiple of what it is padded.
enum class Placement : std::uint32_t {
  packed = 0,   ///< 8 bytes
  aligned = 1,  ///< record_alignment: no page that it shares with others, so it may go past the page cache
};
constexpr std::uint64_t record_alignment = 4096;  // devices' sectors of 512 and of 4096 bytes both divide it

/// In front of each payload.
struct RecordHeader {
  std::uint32_t magic = record_magic;
  RecordKind kind = RecordKind::block;
  Key key;
  NamespaceId name_space = 0;
  Placement placement = Placement::packed;
  std::uint64_t length = 0;    ///< of the payload, 0 for removals
  std::uint64_t sequence = 0;  ///< grows with every record; the highest of a key counts
  std::uint64_t checksum = 0;  ///< XXH3-64 of the payload
  std::uint64_t sum = 0;       ///< XXH3-64 of the 56 bytes above, plus mix64(salt ^ place in the file)
};
static_assert(sizeof(RecordHeader) == 64);

std::uint64_t sum_of(const SegmentHeader& header);
std::uint64_t sum_of(const RecordHeader& header, std::uint64_t salt, std::uint64_t offset);
/// Bytes that a record with a payload of `length` takes.
constexpr std::uint64_t record_bytes(std::uint64_t length, Placement placement = Placement::packed) {
  const std::uint64_t unit = placement == Placement::aligned ? record_alignment : 8;
  return (sizeof(RecordHeader) + length + unit - 1) / unit * unit;
}
/// Bytes of the filler that a record needs in front of it when the file ends at `at`: none, or room for a header.
constexpr std::uint64_t gap_before(std::uint64_t at, Placement placement) {
  if (placement == Placement::packed) return 0;
  const std::uint64_t gap = (record_alignment - at % record_alignment) % record_alignment;
  return gap == 0 || gap >= sizeof(RecordHeader) ? gap : gap + record_alignment;
}
constexpr std::uint64_t max_gap = record_alignment + sizeof(RecordHeader) - 8;
/// The most that a record adds to a file, wherever the file ends.
constexpr std::uint64_t room_bytes(std::uint64_t length, Placement placement) {
  return record_bytes(length, placement) + (placement == Placement::aligned ? max_gap : 0);
}

/// "segment-00000000000000ff.pool"
std::string segment_name(std::uint64_t number);
/// Empty for names of other files.
std::optional<std::uint64_t> segment_number(const std::string& name);

}  // namespace supernode::pool::internal
