#pragma once
// The messages between clients and owners: fixed structs of one program's ranks, sent as bytes.

#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "memory_pool/key.hpp"
#include "memory_pool/status.hpp"

namespace supernode::pool::internal {

enum class RequestKind : std::uint32_t {
  allocate = 1,           ///< key, name_space, length, mode -> status, ticket, offset
  publish = 2,            ///< ticket, checksum, verify -> status, version; `again` when the bytes have not all arrived
  abandon = 3,            ///< ticket; no reply
  remove = 4,             ///< key, name_space -> status
  touch = 5,              ///< name_space, count, followed by that many keys; no reply
  stats = 6,              ///< -> stats
  stop = 7,               ///< -> status
  promote = 8,            ///< name_space, count, followed by that many keys -> found: which are in DRAM now
  create_namespace = 9,   ///< name_space, length: quota, mode: 1 for a whole one, count: keys that hold the name
                          ///< (pack_name()) -> status
  delete_namespace = 10,  ///< name_space -> status; its blocks are gone
  ping = 11,              ///< -> an empty reply
  model = 12,             ///< mode: ModelStep, key: the model, ticket: the claimant -> status, key
  discard = 13,           ///< ticket: an owner that is back; what was stored in its place goes -> an empty reply
};

struct Request {
  RequestKind kind{};
  NamespaceId name_space = 0;
  std::uint64_t id = 0;  ///< chosen by the sender; comes back in the reply
  Key key;
  std::uint64_t length = 0;
  std::uint64_t ticket = 0;
  std::uint64_t checksum = 0;
  std::uint32_t mode = 0;    ///< PutMode
  std::uint32_t verify = 0;  ///< publish: the owner checks the sum before it publishes
  std::uint32_t count = 0;   ///< touch, promote, create_namespace
  std::uint32_t unused = 0;
};

struct Reply {
  std::uint64_t id = 0;
  Status status{};
  std::uint32_t again = 0;  ///< publish: not yet, ask again
  Key key;                  ///< model: the one that gives way
  std::uint64_t ticket = 0;
  std::uint64_t offset = 0;  ///< from the start of the payload area
  std::uint64_t version = 0;
  std::uint64_t found = 0;  ///< promote: bit i stands for key i; create_namespace: 1 when it was there, from files
  std::uint64_t incarnation = 0;  ///< allocate: OwnerHeader::incarnation, as long as which the block is the writer's
  std::uint64_t later = 0;        ///< not to be sent: the answer will come from Shard::settle() under this number
  OwnerStats stats;
};
static_assert(std::is_trivially_copyable_v<Request> && std::is_trivially_copyable_v<Reply>);

constexpr std::size_t max_touches = 64;  ///< keys in one touch or promote message
constexpr std::size_t max_request_bytes = sizeof(Request) + max_touches * sizeof(Key);
constexpr std::size_t max_name_bytes = max_touches * sizeof(Key);  ///< of a namespace

/// A name as the body of a request: padded with zeros, which no name ends in.
inline std::vector<Key> pack_name(std::string_view name) {
  std::vector<Key> keys((name.size() + sizeof(Key) - 1) / sizeof(Key));
  std::memcpy(keys.data(), name.data(), name.size());
  return keys;
}
inline std::string unpack_name(std::span<const Key> keys) {
  const std::string_view text(reinterpret_cast<const char*>(keys.data()), keys.size_bytes());
  return std::string(text.substr(0, text.find_last_not_of('\0') + 1));
}

}  // namespace supernode::pool::internal
