#include "memory_pool/client.hpp"

#include "memory_pool/client/read_context.hpp"
#include "memory_pool/client/store_queue.hpp"
#include "memory_pool/transport/pool_access.hpp"
#include "runtime/core/mpi/deadline.hpp"
#include "runtime/core/stopwatch.hpp"

namespace supernode::pool {
namespace {

constexpr std::uint64_t copy_budget = 1u << 20;  // bytes that a call which must not wait copies for a read

}  // namespace

struct Client::Impl {
  Impl(internal::PoolCore& pool_core, NamespaceId id)
      : core(pool_core), name_space(id), context(core, id, stats), stores(core, id, stats) {}

  internal::PoolCore& core;
  NamespaceId name_space;
  ClientStats stats;
  internal::ReadContext context;
  internal::StoreQueue stores;
};

Client::Client(Pool& pool, const std::string& name_space)
    : pool_(pool),
      name_space_(name_space),
      impl_(std::make_unique<Impl>(internal::PoolAccess::core(pool), namespace_id(name_space))) {}

Client::~Client() = default;

std::vector<Found> Client::lookup(std::span<const Key> keys) {
  const Stopwatch watch(impl_->stats.lookup_seconds);
  std::vector<GetItem> items(keys.size());
  for (std::size_t i = 0; i < keys.size(); ++i) items[i].key = keys[i];
  return impl_->context.read(std::move(items), internal::Wanted::entry);
}

Found Client::get(const Key& key, std::span<std::byte> destination) {
  const GetItem item{key, destination};
  return get_batch({&item, 1}).front();
}

std::vector<Found> Client::get_batch(std::span<const GetItem> items) {
  const Stopwatch watch(impl_->stats.get_seconds);
  return impl_->context.read({items.begin(), items.end()}, internal::Wanted::payload);
}

PendingGet Client::start_get(std::span<const GetItem> items) {
  const Stopwatch watch(impl_->stats.get_seconds);
  auto read = std::make_unique<internal::Read>(impl_->context, std::vector(items.begin(), items.end()),
                                               internal::Wanted::payload);
  // In shared memory to begin is to copy.
  if (!impl_->core.segment.shared()) read->advance(copy_budget);
  return PendingGet(std::move(read));
}

PendingGet::PendingGet(std::unique_ptr<internal::Read> read) : read_(std::move(read)) {}
PendingGet::PendingGet(PendingGet&&) noexcept = default;
PendingGet& PendingGet::operator=(PendingGet&&) noexcept = default;
PendingGet::~PendingGet() = default;

std::size_t PendingGet::size() const { return read_->size(); }
std::optional<Found> PendingGet::found(std::size_t i) const { return read_->found(i); }

bool PendingGet::test() {
  const Stopwatch watch(read_->context().stats().get_seconds);
  read_->context().core().progress();
  read_->advance(copy_budget);
  return read_->done();
}

bool PendingGet::wait(double seconds) {
  const Deadline deadline(seconds);
  SpinWait spin;
  const Stopwatch watch(read_->context().stats().get_seconds);
  while (!read_->done() && !deadline.expired())
    if (!read_->advance(copy_budget) && !read_->context().core().progress()) spin.turn();
  return read_->done();
}

void PendingGet::wait() {
  const Stopwatch watch(read_->context().stats().get_seconds);
  read_->finish();
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

bool Client::wait_for_room(std::size_t bytes, double seconds) {
  const Deadline deadline(seconds);
  SpinWait spin;
  while (!impl_->stores.has_room(bytes)) {
    if (queued() == 0 || deadline.expired()) return false;
    if (!progress()) spin.turn();
  }
  return true;
}

bool Client::progress() {
  const Stopwatch watch(impl_->stats.put_seconds);
  const bool heard = impl_->core.progress();
  const bool moved = impl_->stores.advance();
  const bool read = impl_->context.advance(copy_budget);
  impl_->context.flush_touches_now_and_then();
  return heard || moved || read;
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
  const std::optional<internal::Removed> reply = impl_->core.call(owner, internal::Remove{key, impl_->name_space});
  // From the home's place it is gone, but the home may hold it.
  if (impl_->core.ring.home_of(key) != owner) return Status::owner_down;
  return reply ? reply->status : Status::owner_down;
}

void Client::flush_touches() { impl_->context.flush_touches(); }

const ClientStats& Client::stats() const { return impl_->stats; }

}  // namespace supernode::pool
