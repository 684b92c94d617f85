#pragma once
// The messages between clients and owners: a head, and a small body for each kind. Pure.
//
// On the wire: Head, then the fields of the body in the order of its fields(), by runtime/core/byte_stream. A last field
// of keys or text takes the rest of the message.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <tuple>
#include <variant>
#include <vector>

#include "memory_pool/key.hpp"
#include "memory_pool/status.hpp"
#include "runtime/core/error.hpp"

namespace supernode::pool::internal {

constexpr std::size_t max_keys = 64;          ///< in one Touch or Promote
constexpr std::size_t max_name_bytes = 1024;  ///< of a namespace

/// The numbers are part of the protocol.
enum class MessageKind : std::uint32_t {
  allocate = 1,
  publish = 2,
  abandon = 3,
  remove = 4,
  touch = 5,
  stats = 6,
  stop = 7,
  promote = 8,
  create_namespace = 9,
  delete_namespace = 10,
  ping = 11,
  model = 12,
  discard = 13,
  allocated = 101,
  published = 102,
  removed = 104,
  stats_reply = 106,
  done = 107,
  promoted = 108,
  namespace_created = 109,
  model_reply = 112,
};

/// What a client wants of the model directory. The numbers are part of the protocol.
enum class ModelStep : std::uint32_t {
  claim = 0,     ///< bring it in: stored: it is yours to do; already_there: it is resident; full: another client brings
                 ///< it in, ask again. Whoever has claimed renews the claim by asking again
  resident = 1,  ///< the claimant has brought it in: stored, or not_there when the claim has expired
  forget = 2,    ///< it is not there any more: removed or not_there
  pin = 3,       ///< somebody uses it, and it must not be evicted: stored, or not_there
  unpin = 4,     ///< stored or not_there
  make_room = 5,  ///< forgets the least recently used model without pins, other than the one asked for: removed, and
                  ///< its key; or full. The asker deletes its blocks
};

/// Whether an owner compares the checksum of a block with its bytes before it publishes it.
enum class Verification : std::uint32_t { none = 0, checksum = 1 };

/// How blocks of a namespace may be evicted.
enum class NamespaceKind : std::uint32_t {
  evictable = 0,  ///< by its own stores, and by others where nothing is promised to it
  whole = 1,      ///< not even by its own stores: it is there with all its blocks, or is deleted
};

/// Whether the bytes of a block had all arrived when it was to be published.
enum class Arrival : std::uint32_t { complete = 0, incomplete = 1 };

// ---- Replies ----

struct Allocated {
  static constexpr MessageKind kind = MessageKind::allocated;
  Status status = Status::stored;
  std::uint64_t ticket = 0;       ///< 0 unless `status` is stored
  std::uint64_t offset = 0;       ///< of the block, bytes from the start of the payload area
  std::uint64_t incarnation = 0;  ///< OwnerHeader::incarnation, as long as which the block is the writer's
  template <class Self>
  static auto fields(Self& m) {
    return std::tie(m.status, m.ticket, m.offset, m.incarnation);
  }
};

struct Published {
  static constexpr MessageKind kind = MessageKind::published;
  Status status = Status::stored;
  Arrival arrival = Arrival::complete;  ///< incomplete: nothing has happened, ask again
  std::uint64_t version = 0;
  template <class Self>
  static auto fields(Self& m) {
    return std::tie(m.status, m.arrival, m.version);
  }
};

struct Removed {
  static constexpr MessageKind kind = MessageKind::removed;
  Status status = Status::not_there;  ///< removed or not_there
  template <class Self>
  static auto fields(Self& m) {
    return std::tie(m.status);
  }
};

struct StatsReply {
  static constexpr MessageKind kind = MessageKind::stats_reply;
  OwnerStats stats;
  template <class Self>
  static auto fields(Self& m) {
    return std::tie(m.stats);
  }
};

/// Of requests that ask for nothing but that they be served.
struct Done {
  static constexpr MessageKind kind = MessageKind::done;
  template <class Self>
  static auto fields(Self&) {
    return std::tie();
  }
};

struct Promoted {
  static constexpr MessageKind kind = MessageKind::promoted;
  std::uint64_t in_dram = 0;  ///< bit i: key i of the request is in DRAM now
  template <class Self>
  static auto fields(Self& m) {
    return std::tie(m.in_dram);
  }
};

struct NamespaceCreated {
  static constexpr MessageKind kind = MessageKind::namespace_created;
  Status status = Status::stored;
  bool known_before = false;  ///< from an earlier run's files, or created already
  template <class Self>
  static auto fields(Self& m) {
    return std::tie(m.status, m.known_before);
  }
};

struct ModelReply {
  static constexpr MessageKind kind = MessageKind::model_reply;
  Status status = Status::stored;
  Key model;  ///< make_room: the one that was forgotten
  template <class Self>
  static auto fields(Self& m) {
    return std::tie(m.status, m.model);
  }
};

using Reply = std::variant<Allocated, Published, Removed, StatsReply, Done, Promoted, NamespaceCreated, ModelReply>;

// ---- Requests. Reply: what answers them; void: nothing does ----

/// A block for a writer.
struct Allocate {
  using Reply = Allocated;
  static constexpr MessageKind kind = MessageKind::allocate;
  Key key;
  NamespaceId name_space = 0;
  PutMode mode = PutMode::keep;
  std::uint64_t length = 0;  ///< bytes
  template <class Self>
  static auto fields(Self& m) {
    return std::tie(m.key, m.name_space, m.mode, m.length);
  }
};

/// The block's bytes have been written: readers may see it.
struct Publish {
  using Reply = Published;
  static constexpr MessageKind kind = MessageKind::publish;
  std::uint64_t ticket = 0;
  std::uint64_t checksum = 0;
  Verification verification = Verification::none;
  template <class Self>
  static auto fields(Self& m) {
    return std::tie(m.ticket, m.checksum, m.verification);
  }
};

/// The block will not be published.
struct Abandon {
  using Reply = void;
  static constexpr MessageKind kind = MessageKind::abandon;
  std::uint64_t ticket = 0;
  template <class Self>
  static auto fields(Self& m) {
    return std::tie(m.ticket);
  }
};

struct Remove {
  using Reply = Removed;
  static constexpr MessageKind kind = MessageKind::remove;
  Key key;
  NamespaceId name_space = 0;
  template <class Self>
  static auto fields(Self& m) {
    return std::tie(m.key, m.name_space);
  }
};

/// These keys were hit.
struct Touch {
  using Reply = void;
  static constexpr MessageKind kind = MessageKind::touch;
  NamespaceId name_space = 0;
  std::vector<Key> keys;  ///< at most max_keys
  template <class Self>
  static auto fields(Self& m) {
    return std::tie(m.name_space, m.keys);
  }
};

struct Stats {
  using Reply = StatsReply;
  static constexpr MessageKind kind = MessageKind::stats;
  template <class Self>
  static auto fields(Self&) {
    return std::tie();
  }
};

/// No client needs this owner any more.
struct Stop {
  using Reply = Done;
  static constexpr MessageKind kind = MessageKind::stop;
  template <class Self>
  static auto fields(Self&) {
    return std::tie();
  }
};

/// Bring these keys back from the files.
struct Promote {
  using Reply = Promoted;
  static constexpr MessageKind kind = MessageKind::promote;
  NamespaceId name_space = 0;
  std::vector<Key> keys;  ///< at most max_keys
  template <class Self>
  static auto fields(Self& m) {
    return std::tie(m.name_space, m.keys);
  }
};

struct CreateNamespace {
  using Reply = NamespaceCreated;
  static constexpr MessageKind kind = MessageKind::create_namespace;
  NamespaceId name_space = 0;
  NamespaceKind eviction = NamespaceKind::evictable;
  std::uint64_t quota = 0;  ///< bytes of this owner
  std::string name;         ///< at most max_name_bytes
  template <class Self>
  static auto fields(Self& m) {
    return std::tie(m.name_space, m.eviction, m.quota, m.name);
  }
};

struct DeleteNamespace {
  using Reply = Removed;
  static constexpr MessageKind kind = MessageKind::delete_namespace;
  NamespaceId name_space = 0;
  template <class Self>
  static auto fields(Self& m) {
    return std::tie(m.name_space);
  }
};

struct Ping {
  using Reply = Done;
  static constexpr MessageKind kind = MessageKind::ping;
  template <class Self>
  static auto fields(Self&) {
    return std::tie();
  }
};

struct ModelRequest {
  using Reply = ModelReply;
  static constexpr MessageKind kind = MessageKind::model;
  ModelStep step = ModelStep::claim;
  Key model;
  std::uint64_t claimant = 0;
  template <class Self>
  static auto fields(Self& m) {
    return std::tie(m.step, m.model, m.claimant);
  }
};

/// Owner `returned` is back: what was stored in its place is to be dropped.
struct Discard {
  using Reply = Done;
  static constexpr MessageKind kind = MessageKind::discard;
  std::uint32_t returned = 0;  ///< a rank
  template <class Self>
  static auto fields(Self& m) {
    return std::tie(m.returned);
  }
};

using Request = std::variant<Allocate, Publish, Abandon, Remove, Touch, Stats, Stop, Promote, CreateNamespace,
                             DeleteNamespace, Ping, ModelRequest, Discard>;

// ---- The wire ----

struct Head {
  MessageKind kind{};
  std::uint32_t body_bytes = 0;
  std::uint64_t id = 0;  ///< chosen by the asker, and the same in the reply; 0: no reply is wanted
};

/// A message that is none of ours: cut short, of another kind, too long, or with a value that does not exist.
class MessageError : public EnvironmentError {
 public:
  using EnvironmentError::EnvironmentError;
};

/// @pre lists and names keep their limits.
std::vector<std::byte> encode(std::uint64_t id, const Request& request);
std::vector<std::byte> encode(std::uint64_t id, const Reply& reply);

struct ReceivedRequest {
  std::uint64_t id = 0;
  Request body;
};
struct ReceivedReply {
  std::uint64_t id = 0;
  Reply body;
};
/// @throws MessageError saying what is wrong; a reply is no request, and a request no reply.
ReceivedRequest decode_request(std::span<const std::byte> bytes);
ReceivedReply decode_reply(std::span<const std::byte> bytes);

}  // namespace supernode::pool::internal
