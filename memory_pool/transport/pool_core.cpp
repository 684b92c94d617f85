#include "memory_pool/transport/pool_core.hpp"

#include <algorithm>
#include <random>

#include "runtime/core/log.hpp"
#include "runtime/core/mpi/agreement.hpp"
#include "runtime/core/mpi/deadline.hpp"
#include "runtime/core/mpi/mpi_call.hpp"

namespace supernode::pool::internal {
namespace {

enum Tag : int { request_tag = 1, reply_tag = 2 };
constexpr int messages_a_turn = 64;

std::uint64_t draw_incarnation() {
  std::random_device random;
  std::uint64_t incarnation = 0;
  while (incarnation == 0) incarnation = (std::uint64_t{random()} << 32) | random();
  return incarnation;
}

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
      mailbox(comm) {
  collectively(comm, [&] {
    if (!segment.local().empty()) start_shard();
  });
  last_look_ = now();
}

void PoolCore::start_shard() {
  const auto place = std::find(owners.begin(), owners.end(), comm.rank()) - owners.begin();
  deferred_.clear();
  shard.reset();
  files.reset();  // before they are opened again
  if (!config.directory.empty())
    files = std::make_unique<FileTier>(config, config.directory + "/owner-" + std::to_string(place));
  shard.emplace(config, segment.local(), draw_incarnation(), files.get());
}

bool PoolCore::progress() {
  const double time = now();
  watched_ += std::min(time - last_look_, 0.05);
  last_look_ = time;
  if (shard) {
    shard->expire(time);
    for (Settled& settled : shard->settle(time)) {
      const auto asker = deferred_.find(settled.number);
      if (asker == deferred_.end()) continue;
      answer(asker->second.rank, asker->second.id, std::move(settled.reply));
      deferred_.erase(asker);
    }
  }
  if (!silent_.empty()) look_for_returned();
  int handled = 0;
  for (; handled < messages_a_turn; ++handled) {
    const std::optional<Message> message = mailbox.poll();
    if (!message) break;
    if (message->tag == reply_tag)
      handle_reply(message->source, message->bytes);
    else
      handle_request(message->source, message->bytes);
  }
  return handled > 0;
}

bool PoolCore::serve_until_all(const Communicator& everyone, const ServeWait& wait) {
  const Deadline deadline(wait.deadline_s);
  SpinWait spin(wait.idle);
  MPI_Request all_here = MPI_REQUEST_NULL;
  while (true) {
    if (progress()) spin.reset();
    if (all_here == MPI_REQUEST_NULL) {
      if (mailbox.unsent() == 0 && !segment.abandoned_in_flight())
        SUPERNODE_MPI(MPI_Ibarrier(everyone.get(), &all_here));
    } else if (completed(all_here)) {
      return true;
    }
    if (deadline.expired()) return false;
    spin.turn();
  }
}

void PoolCore::handle_reply(int source, std::span<const std::byte> bytes) {
  ReceivedReply reply = decode_reply(bytes);
  const auto awaited = awaited_.find(reply.id);
  if (awaited != awaited_.end()) {
    awaited->second = std::move(reply.body);
  } else if (const auto* block = std::get_if<Allocated>(&reply.body); block && block->ticket != 0) {
    // For a store that has been given up.
    abandon(source, block->ticket);
  }
}

void PoolCore::handle_request(int source, std::span<const std::byte> bytes) {
  const ReceivedRequest request = decode_request(bytes);
  if (!shard) throw MessageError("a pool request to a rank that owns nothing");
  serve_for(source, request.id, request.body);
}

/// Serves, and sees to it that the reply goes to `rank`, now or when the files have done their part.
void PoolCore::serve_for(int rank, std::uint64_t id, const Request& request) {
  Served served = serve(request);
  if (id == 0) return;
  if (const auto* deferred = std::get_if<Deferred>(&served))
    deferred_[deferred->number] = {rank, id};
  else if (auto* reply = std::get_if<Reply>(&served))
    answer(rank, id, std::move(*reply));
}

void PoolCore::answer(int rank, std::uint64_t id, Reply reply) {
  if (rank != comm.rank()) {
    mailbox.send(rank, reply_tag, encode(id, reply));
    return;
  }
  const auto awaited = awaited_.find(id);
  if (awaited != awaited_.end()) awaited->second = std::move(reply);
}

Served PoolCore::serve(const Request& request) {
  if (std::holds_alternative<Stop>(request)) {
    stopped = true;
    return Reply(Done{});
  }
  if (const auto* discard = std::get_if<Discard>(&request)) {
    shard->discard([ring = ring, home = static_cast<int>(discard->returned)](const Key& key) {
      return ring.home_of(key) == home;
    });
    return Reply(Done{});
  }
  return std::visit(
      [this](const auto& body) -> Served {
        using Body = std::decay_t<decltype(body)>;
        if constexpr (std::is_same_v<Body, Stop> || std::is_same_v<Body, Discard>)
          panic("served above");
        else
          return shard->serve(body, now());
      },
      request);
}

std::uint64_t PoolCore::ask(int owner, Request request) {
  const std::uint64_t id = ++last_id_;
  awaited_[id] = std::nullopt;
  if (owner == comm.rank())
    serve_for(owner, id, request);
  else
    mailbox.send(owner, request_tag, encode(id, request));
  return id;
}

std::optional<Reply> PoolCore::take_any(std::uint64_t id) {
  const auto awaited = awaited_.find(id);
  if (awaited == awaited_.end() || !awaited->second) return std::nullopt;
  std::optional<Reply> reply = std::move(awaited->second);
  awaited_.erase(awaited);
  return reply;
}

void PoolCore::tell(int owner, const Request& request) {
  if (owner == comm.rank())
    serve_for(owner, 0, request);
  else
    mailbox.send(owner, request_tag, encode(0, request));
}

void PoolCore::abandon(int owner, std::uint64_t ticket) { tell(owner, Abandon{ticket}); }

std::optional<Reply> PoolCore::call_any(int owner, const Request& request) {
  const std::uint64_t id = ask(owner, request);
  const double end = watched_ + config.deadline;
  SpinWait spin;
  while (true) {
    if (std::optional<Reply> reply = take_any(id)) return reply;
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
      silent.ping = ask(owner, Ping{});
    }
    if (!silent.answered && silent.ping != 0 && has_ended(silent.ping)) {
      silent.answered = true;
      prepare_return(owner, silent);
    }
    std::erase_if(silent.pending_steps, [&](const auto& step) {
      if (has_ended(step.second)) return true;
      if (step.first == owner || ring.is_live(step.first)) return false;
      forget(step.second);  // has left, too
      return true;
    });
    if (!silent.answered || !silent.pending_steps.empty()) {
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
  const auto add_step = [&](int at, Request request) {
    silent.pending_steps.emplace_back(at, ask(at, std::move(request)));
  };
  for (const NamespaceId name_space : silent.deleted) add_step(owner, DeleteNamespace{name_space});
  for (const auto& [name, terms] : created_) add_step(owner, creation(name, terms, owner));
  for (const int other : owners)
    if (ring.is_live(other)) add_step(other, Discard{static_cast<std::uint32_t>(owner)});
}

CreateNamespace PoolCore::creation(const std::string& name, const Created& terms, int owner) const {
  const auto quota = terms.quota_by_owner.find(owner);
  return {namespace_id(name), terms.kind, quota == terms.quota_by_owner.end() ? 0 : quota->second, name};
}

Status PoolCore::create_namespace(const std::string& name, const std::map<int, std::uint64_t>& quota_by_owner,
                                  NamespaceKind kind) {
  if (name.empty() || name.size() > max_name_bytes || name.back() == '\0')
    throw UsageError("a pool namespace has a name of 1 to " + std::to_string(max_name_bytes) +
                     " bytes that does not end in a zero");
  const Created terms{quota_by_owner, kind};
  std::vector<int> made;
  Status outcome = Status::stored;
  for (const int owner : owners) {
    if (!ring.is_live(owner)) continue;
    const std::optional<NamespaceCreated> reply = call(owner, creation(name, terms, owner));
    if (!reply) continue;
    const Status status = reply->status;
    if ((status == Status::stored && !reply->known_before) || status == Status::not_durable) made.push_back(owner);
    if (status == Status::quota || status == Status::name_clash) outcome = status;
    if (outcome == Status::stored || (outcome == Status::not_durable && status == Status::already_there))
      outcome = status;
  }
  if (ring.live_count() == 0) return Status::owner_down;
  if (outcome != Status::quota && outcome != Status::name_clash) {
    // Models are brought in again by whoever wants them.
    if (kind == NamespaceKind::whole) return outcome;
    created_.try_emplace(name, terms);
    for (auto& [owner, silent] : silent_)
      if (silent.answered) silent.pending_steps.emplace_back(owner, ask(owner, creation(name, terms, owner)));
    return outcome;
  }
  // One cannot promise it: no one shall.
  const DeleteNamespace request{namespace_id(name)};
  for (const int owner : made) call(owner, request);
  return outcome;
}

Status PoolCore::delete_namespace(const std::string& name) {
  created_.erase(name);
  const DeleteNamespace request{namespace_id(name)};
  for (auto& [owner, silent] : silent_)
    if (silent.answered)
      silent.pending_steps.emplace_back(owner, ask(owner, request));
    else
      silent.deleted.push_back(request.name_space);
  Status outcome = Status::not_there;
  for (const int owner : owners) {
    if (!ring.is_live(owner)) continue;
    const std::optional<Removed> reply = call(owner, request);
    if (reply && reply->status == Status::removed) outcome = Status::removed;
  }
  return ring.live_count() == 0 ? Status::owner_down : outcome;
}

}  // namespace supernode::pool::internal
