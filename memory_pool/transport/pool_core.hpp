#pragma once
// What a rank's pool and its clients share: window, messages, view, and the shard of an owner.

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <unordered_map>
#include <vector>

#include "memory_pool/config.hpp"
#include "memory_pool/files/file_tier.hpp"
#include "memory_pool/format/messages.hpp"
#include "memory_pool/owner/layout.hpp"
#include "memory_pool/owner/shard.hpp"
#include "memory_pool/pool.hpp"
#include "memory_pool/ring.hpp"
#include "memory_pool/transport/segment.hpp"
#include "runtime/core/clock.hpp"
#include "runtime/core/mpi/communicator.hpp"
#include "runtime/core/mpi/mailbox.hpp"

namespace supernode::pool::internal {

struct PoolCore {
  PoolCore(const Communicator& world, std::vector<int> owner_ranks, const PoolConfig& settings);

  /// Serves what has arrived and takes in replies; never waits.
  bool progress();

  /// Serves until every rank of `everyone` is here, and nothing that this rank has sent, or has given up, is in MPI's
  /// hands. Collective over `everyone`. @returns false after the deadline.
  bool serve_until_all(const Communicator& everyone, const ServeWait& wait);

  /// Sends a request and expects a reply, which take() will find. A request of a rank to itself is served at once.
  std::uint64_t ask(int owner, Request request);
  /// The reply to `id`, once; `Expected` is what answers the request. @throws MessageError when another kind came.
  template <class Expected>
  std::optional<Expected> take(std::uint64_t id) {
    return as<Expected>(take_any(id));
  }
  /// Whether the reply to `id` has come; then it has been taken.
  bool has_ended(std::uint64_t id) { return take_any(id).has_value(); }
  /// No reply to `id` is wanted any more.
  void forget(std::uint64_t id) { awaited_.erase(id); }
  /// Sends a request that has no reply.
  void tell(int owner, const Request& request);
  /// Tells an owner that a block it has handed out will not be published.
  void abandon(int owner, std::uint64_t ticket);
  /// ask() and wait. Empty when the owner did not answer in time; it has been dropped then.
  template <class Body>
  std::optional<typename Body::Reply> call(int owner, const Body& request) {
    return as<typename Body::Reply>(call_any(owner, request));
  }

  /// Takes a silent owner out of the view of this rank, and asks it from time to time whether it is back.
  void drop(int owner, const char* why);
  /// Whether the memory of `owner` can still be read, as far as the transport tells; drops the owner if not.
  bool has_memory(int owner);
  /// Asks all live owners to create a namespace; one that comes back later is asked, too. stored, already_there, quota.
  /// or name_clash. @throws UsageError for a name that is empty, too long, or ends in a zero.
  Status create_namespace(const std::string& name, const std::map<int, std::uint64_t>& quota_by_owner,
                          NamespaceKind kind);
  /// removed, or not_there when no owner knew it. An owner that has left is told before it is back in the view.
  Status delete_namespace(const std::string& name);

  /// Distinct for each call on any rank.
  std::uint64_t unique_number() { return static_cast<std::uint64_t>(comm.rank() + 1) << 32 | ++last_unique_; }

  /// This owner makes its shard anew, in memory that holds nothing; with a file tier it has the files' blocks.
  void start_shard();

  /// Seconds this rank has spent looking for messages: a pause between two looks counts 50 ms at most. Deadlines run on
  /// it, so that a rank that computes for a minute does not take its own absence for the owner's silence.
  double watched() const { return watched_; }

  /// Seconds, steady. Tests let time pass as they like.
  std::function<double()> now = [] { return wall_now().value; };

  // In this order: what the first four refuse is refused on every rank, before any message.
  PoolConfig config;
  std::vector<int> owners;
  Ring ring;
  Layout layout;
  Communicator comm;
  Segment segment;
  Mailbox mailbox;
  std::unique_ptr<FileTier> files;  ///< of an owner, where it has a directory
  std::optional<Shard> shard;       ///< of an owner
  bool stopped = false;

 private:
  template <class Expected>
  static std::optional<Expected> as(std::optional<Reply> reply) {
    if (!reply) return std::nullopt;
    if (auto* expected = std::get_if<Expected>(&*reply)) return std::move(*expected);
    throw MessageError("a pool reply of another kind than its request");
  }
  std::optional<Reply> take_any(std::uint64_t id);
  std::optional<Reply> call_any(int owner, const Request& request);
  void handle_request(int source, std::span<const std::byte> bytes);
  void handle_reply(int source, std::span<const std::byte> bytes);
  Served serve(const Request& request);
  void serve_for(int rank, std::uint64_t id, const Request& request);
  void answer(int rank, std::uint64_t id, Reply reply);

  std::unordered_map<std::uint64_t, std::optional<Reply>> awaited_;
  struct Asker {
    int rank;
    std::uint64_t id;
  };
  std::unordered_map<std::uint64_t, Asker> deferred_;  ///< who waits for the deferred reply of that number
  /// Owners that have left the view.
  struct Silent {
    std::uint64_t ping = 0;  ///< the question that is under way; 0: none
    double ask_at = 0;       ///< watched()
    bool answered = false;
    std::vector<NamespaceId> deleted;                          ///< since it left
    std::vector<std::pair<int, std::uint64_t>> pending_steps;  ///< owner and request: once all have ended, it is back
  };
  std::map<int, Silent> silent_;
  void look_for_returned();
  void prepare_return(int owner, Silent& silent);
  /// A namespace that this rank has created.
  struct Created {
    std::map<int, std::uint64_t> quota_by_owner;
    NamespaceKind kind;
  };
  std::map<std::string, Created> created_;
  CreateNamespace creation(const std::string& name, const Created& terms, int owner) const;
  std::uint64_t last_id_ = 0;
  std::uint64_t last_unique_ = 0;
  double watched_ = 0, last_look_ = 0;
};

}  // namespace supernode::pool::internal
