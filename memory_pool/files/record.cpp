#include "memory_pool/files/record.hpp"

#include <charconv>

#include <fmt/format.h>

#include "memory_pool/format/checksum.hpp"
#include "runtime/core/random.hpp"

namespace supernode::pool::internal {

std::uint64_t sum_of(const SegmentHeader& header) {
  return checksum_of(std::as_bytes(std::span(&header, 1)).first(offsetof(SegmentHeader, sum)));
}

std::uint64_t sum_of(const RecordHeader& header, std::uint64_t salt, std::uint64_t offset) {
  return checksum_of(std::as_bytes(std::span(&header, 1)).first(offsetof(RecordHeader, sum))) + mix64(salt ^ offset);
}

std::string segment_name(std::uint64_t number) { return fmt::format("segment-{:016x}.pool", number); }

std::optional<std::uint64_t> segment_number(const std::string& name) {
  std::uint64_t number = 0;
  if (name.size() != 29 || !name.starts_with("segment-") || !name.ends_with(".pool")) return std::nullopt;
  const char* end = name.data() + 24;
  if (std::from_chars(name.data() + 8, end, number, 16).ptr != end) return std::nullopt;
  return number;
}

}  // namespace supernode::pool::internal
