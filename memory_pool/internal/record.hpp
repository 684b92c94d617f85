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
constexpr std::uint32_t format_version = 1;

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
};

/// In front of each payload; records start at multiples of 8.
struct RecordHeader {
  std::uint32_t magic = record_magic;
  RecordKind kind = RecordKind::block;
  Key key;
  NamespaceId name_space = 0;
  std::uint32_t unused = 0;
  std::uint64_t length = 0;    ///< of the payload, 0 for removals
  std::uint64_t sequence = 0;  ///< grows with every record; the highest of a key counts
  std::uint64_t checksum = 0;  ///< XXH3-64 of the payload
  std::uint64_t sum = 0;       ///< XXH3-64 of the 56 bytes above, plus mix64(salt ^ place in the file)
};
static_assert(sizeof(RecordHeader) == 64);

std::uint64_t sum_of(const SegmentHeader& header);
std::uint64_t sum_of(const RecordHeader& header, std::uint64_t salt, std::uint64_t offset);
/// Bytes that a record with a payload of `length` takes.
constexpr std::uint64_t record_bytes(std::uint64_t length) { return sizeof(RecordHeader) + (length + 7) / 8 * 8; }

/// "segment-00000000000000ff.pool"
std::string segment_name(std::uint64_t number);
/// Empty for names of other files.
std::optional<std::uint64_t> segment_number(const std::string& name);

}  // namespace supernode::pool::internal
