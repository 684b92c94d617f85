#include "memory_pool/transport/pool_core.hpp"

#include <algorithm>
#include <cstring>

#include "runtime/core/clock.hpp"
#include "runtime/core/log.hpp"
#include "runtime/core/mpi/agreement.hpp"
#include "runtime/core/mpi/deadline.hpp"

namespace supernode::pool::internal {
namespace {

/// Only what every rank can judge alike.
std::vector<int> checked(std::vector<int> owners, int ranks) {
  for (const int owner : owners)
    if (owner >= ranks)
      throw UsageError("pool owner " + std::to_string(owner) + " is not one of " + std::to_string(ranks) + " ranks");
  return owners;
}

}  // namespace

PoolCore::PoolCore(const Communicator& world, std::vector<int> owner_ranks, const PoolConfig& settings)
    : config(settings),
      owners(checked(std::move(owner_ranks), world.size())),
      ring(owners, settings.virtual_nodes),
      layout(layout_of(settings)),
      comm(world.duplicate()),
      segment(comm, owners, layout.total_bytes, layout.payload_offset, settings.transport),
      messenger(comm) {
  collectively(comm, [&] {
    if (!segment.local().empty()) start_shard();
  });
  last_look_ = wall_now().value;
}

void PoolCore::start_shard() {
  const auto place = std::find(owners.begin(), owners.end(), comm.rank()) - owners.begin();
  const std::string directory = config.directory.empty() ? "" : config.directory + "/owner-" + std::to_string(place);
  deferred_.clear();
  shard.reset();  // before the new one opens the same files
  shard.emplace(config, segment.local(), directory);
}

bool PoolCore::progress() {
  const double now = wall_now().value;
  watched_ += std::min(now - last_look_, 0.05);
  last_look_ = now;
  if (shard) {
    shard->expire(now);
    for (const Reply& reply : shard->settle(now)) {
      const auto asker = deferred_.find(reply.later);
      if (asker == deferred_.end()) continue;
      answer(asker->second.rank, reply);
      deferred_.erase(asker);
    }
  }
  if (!silent_.empty()) look_for_returned();
  return messenger.poll([this](int source, Tag tag, std::span<const std::byte> bytes) { handle(source, tag, bytes); });
}

void PoolCore::handle(int source, Tag tag, std::span<const std::byte> bytes) {
  if (tag == Tag::reply) {
    Reply reply;
    expect(bytes.size() == sizeof reply, "a pool reply of odd length");
    std::memcpy(&reply, bytes.data(), sizeof reply);
    const auto awaited = awaited_.find(reply.id);
    if (awaited != awaited_.end()) {
      awaited->second = reply;
    } else if (reply.ticket != 0) {
      // A block for a store that has been given up.
      abandon(source, reply.ticket);
    }
    return;
  }
  Request request;
  expect(bytes.size() >= sizeof request && shard, "a pool request of odd length, or to a rank that owns nothing");
  std::memcpy(&request, bytes.data(), sizeof request);
  std::array<Key, max_touches> keys;
  const bool has_keys = request.kind == RequestKind::touch || request.kind == RequestKind::promote ||
                        request.kind == RequestKind::create_namespace;
  const std::size_t count = has_keys ? request.count : 0;
  expect(count <= max_touches && bytes.size() == sizeof request + count * sizeof(Key), "a pool request of odd length");
  std::memcpy(keys.data(), bytes.data() + sizeof request, count * sizeof(Key));
  const Reply reply = serve(request, {keys.data(), count});
  if (request.id == 0) return;
  if (reply.later != 0)
    deferred_[reply.later] = {source, request.id};
  else
    answer(source, reply);
}

void PoolCore::answer(int rank, const Reply& reply) {
  if (rank != comm.rank()) {
    messenger.send(rank, Tag::reply, std::as_bytes(std::span(&reply, 1)));
    return;
  }
  const auto awaited = awaited_.find(reply.id);
  if (awaited != awaited_.end()) awaited->second = reply;
}

Reply PoolCore::serve(const Request& request, std::span<const Key> keys) {
  Reply reply;
  reply.id = request.id;
  if (request.kind == RequestKind::stop)
    stopped = true;
  else if (request.kind == RequestKind::discard)
    shard->discard(
        [ring = ring, home = static_cast<int>(request.ticket)](const Key& key) { return ring.home_of(key) == home; });
  else
    reply = shard->serve(request, keys, wall_now().value);
  return reply;
}

std::uint64_t PoolCore::ask(int owner, Request request, std::span<const Key> keys) {
  request.id = ++last_id_;
  request.count = static_cast<std::uint32_t>(keys.size());
  awaited_[request.id] = std::nullopt;
  if (owner == comm.rank()) {
    const Reply reply = serve(request, keys);
    if (reply.later != 0)
      deferred_[reply.later] = {owner, request.id};
    else
      answer(owner, reply);
  } else {
    messenger.send(owner, Tag::request, std::as_bytes(std::span(&request, 1)), std::as_bytes(keys));
  }
  return request.id;
}

std::optional<Reply> PoolCore::take(std::uint64_t id) {
  const auto awaited = awaited_.find(id);
  if (awaited == awaited_.end() || !awaited->second) return std::nullopt;
  const std::optional<Reply> reply = awaited->second;
  awaited_.erase(awaited);
  return reply;
}

void PoolCore::tell(int owner, Request request, std::span<const Key> keys) {
  request.id = 0;
  request.count = static_cast<std::uint32_t>(keys.size());
  if (owner == comm.rank())
    serve(request, keys);
  else
    messenger.send(owner, Tag::request, std::as_bytes(std::span(&request, 1)), std::as_bytes(keys));
}

void PoolCore::abandon(int owner, std::uint64_t ticket) {
  Request request;
  request.kind = RequestKind::abandon;
  request.ticket = ticket;
  tell(owner, request);
}

std::optional<Reply> PoolCore::call(int owner, const Request& request, std::span<const Key> keys) {
  const std::uint64_t id = ask(owner, request, keys);
  const double end = watched_ + config.deadline;
  SpinWait spin;
  while (true) {
    if (const std::optional<Reply> reply = take(id)) return reply;
    if (watched_ >= end) break;
    if (!progress()) spin.turn();
  }
  forget(id);
  drop(owner, "did not answer in time");
  return std::nullopt;
}

void PoolCore::drop(int owner, const char* why) {
  if (!ring.is_live(owner)) return;
  ring.drop(owner);
  silent_[owner].ask_at = watched_;
  log(LogLevel::warning, "pool owner {} {} and leaves the view (version {}, {} of {} left)", owner, why, ring.version(),
      ring.live_count(), owners.size());
}

bool PoolCore::has_memory(int owner) {
  if (!segment.shared() || segment.word(owner, layout.header_offset) != 0) return true;
  drop(owner, "has lost its memory");
  return false;
}

/// One question at a time to each owner that has left: a silent one must not be flooded.
void PoolCore::look_for_returned() {
  for (auto it = silent_.begin(); it != silent_.end();) {
    const int owner = it->first;
    Silent& silent = it->second;
    if (silent.ping == 0 && watched_ >= silent.ask_at) {
      Request request;
      request.kind = RequestKind::ping;
      silent.ping = ask(owner, request);
    }
    if (!silent.answered && silent.ping != 0 && take(silent.ping)) {
      silent.answered = true;
      prepare_return(owner, silent);
    }
    std::erase_if(silent.chores, [&](const auto& chore) {
      if (take(chore.second)) return true;
      if (chore.first == owner || ring.is_live(chore.first)) return false;
      forget(chore.second);  // has left, too
      return true;
    });
    if (!silent.answered || !silent.chores.empty()) {
      ++it;
      continue;
    }
    it = silent_.erase(it);
    ring.restore(owner);
    log(LogLevel::warning, "pool owner {} is back in the view (version {}, {} of {} there)", owner, ring.version(),
        ring.live_count(), owners.size());
  }
}

/// What must be done before an owner is back in the view. What was deleted meanwhile must not return with it. And what
/// was stored in its place must not outlive a removal of the same key at its home, for the next time that it is away.
void PoolCore::prepare_return(int owner, Silent& silent) {
  Request request;
  request.kind = RequestKind::delete_namespace;
  for (const NamespaceId name_space : silent.deleted) {
    request.name_space = name_space;
    silent.chores.emplace_back(owner, ask(owner, request));
  }
  for (const auto& [name, terms] : created_)
    silent.chores.emplace_back(owner, ask(owner, creation(name, terms, owner), pack_name(name)));
  request = {};
  request.kind = RequestKind::discard;
  request.ticket = static_cast<std::uint64_t>(owner);
  for (const int other : owners)
    if (ring.is_live(other)) silent.chores.emplace_back(other, ask(other, request));
}

Request PoolCore::creation(const std::string& name, const Created& terms, int owner) const {
  const auto quota = terms.quota_by_owner.find(owner);
  Request request;
  request.kind = RequestKind::create_namespace;
  request.name_space = namespace_id(name);
  request.length = quota == terms.quota_by_owner.end() ? 0 : quota->second;
  request.mode = terms.whole ? 1 : 0;
  return request;
}

Status PoolCore::create_namespace(const std::string& name, const std::map<int, std::uint64_t>& quota_by_owner,
                                  bool whole) {
  if (name.empty() || name.size() > max_name_bytes || name.back() == '\0')
    throw UsageError("a pool namespace has a name of 1 to " + std::to_string(max_name_bytes) +
                     " bytes that does not end in a zero");
  const Created terms{quota_by_owner, whole};
  std::vector<int> made;
  Status outcome = Status::stored;
  for (const int owner : owners) {
    if (!ring.is_live(owner)) continue;
    const std::optional<Reply> reply = call(owner, creation(name, terms, owner), pack_name(name));
    if (!reply) continue;
    const Status status = reply->status;
    if ((status == Status::stored && reply->found == 0) || status == Status::not_durable) made.push_back(owner);
    if (status == Status::quota || status == Status::name_clash) outcome = status;
    if (outcome == Status::stored || (outcome == Status::not_durable && status == Status::already_there))
      outcome = status;
  }
  if (ring.live_count() == 0) return Status::owner_down;
  if (outcome != Status::quota && outcome != Status::name_clash) {
    // Models are brought in again by whoever wants them.
    if (whole) return outcome;
    created_.try_emplace(name, terms);
    for (auto& [owner, silent] : silent_)
      if (silent.answered) silent.chores.emplace_back(owner, ask(owner, creation(name, terms, owner), pack_name(name)));
    return outcome;
  }
  // One cannot promise it: no one shall.
  Request request;
  request.kind = RequestKind::delete_namespace;
  request.name_space = namespace_id(name);
  for (const int owner : made) call(owner, request);
  return outcome;
}

Status PoolCore::delete_namespace(const std::string& name) {
  created_.erase(name);
  Request request;
  request.kind = RequestKind::delete_namespace;
  request.name_space = namespace_id(name);
  for (auto& [owner, silent] : silent_)
    if (silent.answered)
      silent.chores.emplace_back(owner, ask(owner, request));
    else
      silent.deleted.push_back(request.name_space);
  Status outcome = Status::not_there;
  for (const int owner : owners) {
    if (!ring.is_live(owner)) continue;
    const std::optional<Reply> reply = call(owner, request);
    if (reply && reply->status == Status::removed) outcome = Status::removed;
  }
  return ring.live_count() == 0 ? Status::owner_down : outcome;
}

}  // namespace supernode::pool::internal
