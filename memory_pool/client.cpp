#include "memory_pool/client.hpp"

#include "memory_pool/internal/pool_core.hpp"
#include "memory_pool/internal/reader.hpp"
#include "memory_pool/internal/store_queue.hpp"
#include "runtime/core/clock.hpp"
#include "runtime/core/deadline.hpp"

namespace supernode::pool {
namespace {

/// Adds the time of its life to a counter.
class Stopwatch {
 public:
  explicit Stopwatch(double& total) : total_(total), start_(wall_now()) {}
  ~Stopwatch() { total_ += (wall_now() - start_).value; }
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;

 private:
  double& total_;
  WallTime start_;
};

}  // namespace

struct Client::Impl {
  Impl(internal::PoolCore& pool_core, NamespaceId id)
      : core(pool_core), name_space(id), reader(core, id, stats), stores(core, id, stats) {}

  internal::PoolCore& core;
  NamespaceId name_space;
  ClientStats stats;
  internal::Reader reader;
  internal::StoreQueue stores;
};

Client::Client(Pool& pool, const std::string& name_space)
    : pool_(pool), name_space_(name_space), impl_(std::make_unique<Impl>(pool.core(), namespace_id(name_space))) {}

Client::~Client() = default;

std::vector<Found> Client::lookup(std::span<const Key> keys) {
  const Stopwatch watch(impl_->stats.lookup_seconds);
  std::vector<GetItem> items(keys.size());
  for (std::size_t i = 0; i < keys.size(); ++i) items[i].key = keys[i];
  std::vector<Found> result(keys.size());
  impl_->reader.read(items, false, result);
  for (const Found& found : result) impl_->stats.lookups.count(found.reason);
  return result;
}

Found Client::get(const Key& key, std::span<std::byte> destination) {
  const GetItem item{key, destination};
  return get_batch({&item, 1}).front();
}

std::vector<Found> Client::get_batch(std::span<const GetItem> items) {
  const Stopwatch watch(impl_->stats.get_seconds);
  std::vector<Found> result(items.size());
  impl_->reader.read(items, true, result);
  for (const Found& found : result) {
    impl_->stats.gets.count(found.reason);
    if (found.hit()) impl_->stats.bytes_read += found.length;
  }
  return result;
}

Status Client::put(const Key& key, std::span<const std::byte> data, PutMode mode) {
  const PutItem item{key, data};
  return put_batch({&item, 1}, mode).front();
}

std::vector<Status> Client::put_batch(std::span<const PutItem> items, PutMode mode) {
  const Stopwatch watch(impl_->stats.put_seconds);
  return impl_->stores.store(items, mode);
}

bool Client::store_async(const Key& key, std::vector<std::byte> data, PutMode mode) {
  const Stopwatch watch(impl_->stats.put_seconds);
  return impl_->stores.enqueue(key, std::move(data), mode);
}

bool Client::progress() {
  const Stopwatch watch(impl_->stats.put_seconds);
  const bool heard = impl_->core.progress();
  const bool moved = impl_->stores.advance();
  impl_->reader.flush_touches(false);
  return heard || moved;
}

std::size_t Client::drain(double seconds) {
  const Deadline deadline(seconds);
  SpinWait spin;
  while (queued() > 0 && !deadline.expired())
    if (!progress()) spin.turn();
  return queued();
}

std::size_t Client::queued() const { return impl_->stores.size(); }

Status Client::remove(const Key& key) {
  const int owner = impl_->core.ring.owner_of(key);
  if (owner < 0) return Status::owner_down;
  internal::Request request;
  request.kind = internal::RequestKind::remove;
  request.key = key;
  request.name_space = impl_->name_space;
  const std::optional<internal::Reply> reply = impl_->core.call(owner, request);
  return reply ? reply->status : Status::owner_down;
}

void Client::flush_touches() { impl_->reader.flush_touches(true); }

const ClientStats& Client::stats() const { return impl_->stats; }

}  // namespace supernode::pool
