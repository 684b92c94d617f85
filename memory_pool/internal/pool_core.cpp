#include "memory_pool/internal/pool_core.hpp"

#include <algorithm>
#include <cstring>

#include "runtime/core/agreement.hpp"
#include "runtime/core/clock.hpp"
#include "runtime/core/deadline.hpp"
#include "runtime/core/log.hpp"

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
  const auto place = std::find(owners.begin(), owners.end(), comm.rank()) - owners.begin();
  const std::string directory = config.directory.empty() ? "" : config.directory + "/owner-" + std::to_string(place);
  collectively(comm, [&] {
    if (!segment.local().empty()) shard.emplace(config, segment.local(), directory);
  });
  last_look_ = wall_now().value;
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
  return messenger.poll([this](int source, Tag tag, std::span<const std::byte> bytes) { handle(source, tag, bytes); });
}

void PoolCore::handle(int source, Tag tag, std::span<const std::byte> bytes) {
  if (tag == Tag::reply) {
    Reply reply;
    expect(bytes.size() == sizeof reply, "a pool reply of odd length");
    std::memcpy(&reply, bytes.data(), sizeof reply);
    const auto awaited = awaited_.find(reply.id);
    if (awaited != awaited_.end()) awaited->second = reply;
    return;
  }
  Request request;
  expect(bytes.size() >= sizeof request && shard, "a pool request of odd length, or to a rank that owns nothing");
  std::memcpy(&request, bytes.data(), sizeof request);
  std::array<Key, max_touches> keys;
  const bool has_keys = request.kind == RequestKind::touch || request.kind == RequestKind::promote;
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
  if (request.kind != RequestKind::stop) return shard->serve(request, keys, wall_now().value);
  stopped = true;
  Reply reply;
  reply.id = request.id;
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

std::optional<Reply> PoolCore::call(int owner, const Request& request) {
  const std::uint64_t id = ask(owner, request);
  const double end = watched_ + config.deadline;
  SpinWait spin;
  while (true) {
    if (const std::optional<Reply> reply = take(id)) return reply;
    if (watched_ >= end) break;
    if (!progress()) spin.turn();
  }
  forget(id);
  drop(owner, "did not answer");
  return std::nullopt;
}

void PoolCore::drop(int owner, const char* why) {
  if (!ring.is_live(owner)) return;
  ring.drop(owner);
  log(LogLevel::warning, "pool owner {} {} within {} s and leaves the view (version {}, {} of {} left)", owner, why,
      config.deadline, ring.version(), ring.live_count(), owners.size());
}

}  // namespace supernode::pool::internal
