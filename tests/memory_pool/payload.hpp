#pragma once
// Payloads that name their key and version, so that a wrong byte anywhere is seen, and keys by number.

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "memory_pool/key.hpp"
#include "runtime/core/random.hpp"

namespace supernode::test {

inline pool::Key key_number(std::uint64_t number) { return pool::key_of("key " + std::to_string(number)); }

/// `bytes` bytes (at least 24): key, version, then draws that follow from both.
inline std::vector<std::byte> make_payload(const pool::Key& key, std::uint64_t version, std::size_t bytes) {
  std::vector<std::byte> payload(bytes);
  const std::uint64_t head[3] = {key.low, key.high, version};
  std::memcpy(payload.data(), head, sizeof head);
  Random draws(key.low ^ key.high, version);
  for (std::size_t at = sizeof head; at < bytes; at += 8) {
    const std::uint64_t word = draws();
    std::memcpy(payload.data() + at, &word, std::min<std::size_t>(8, bytes - at));
  }
  return payload;
}

/// The version of an intact payload of `key`; -1 when any byte is wrong.
inline long long check_payload(const pool::Key& key, std::span<const std::byte> payload) {
  std::uint64_t head[3];
  if (payload.size() < sizeof head) return -1;
  std::memcpy(head, payload.data(), sizeof head);
  const std::vector<std::byte> expected = make_payload(key, head[2], payload.size());
  return std::memcmp(expected.data(), payload.data(), payload.size()) == 0 ? static_cast<long long>(head[2]) : -1;
}

}  // namespace supernode::test
