#include "memory_pool/pool.hpp"

#include <chrono>
#include <exception>
#include <thread>

#include <fmt/format.h>

#include "memory_pool/transport/pool_core.hpp"
#include "runtime/core/log.hpp"
#include "runtime/core/memory_pages.hpp"
#include "runtime/core/mpi/agreement.hpp"
#include "runtime/core/mpi/deadline.hpp"
#include "runtime/core/mpi/session.hpp"
#include "runtime/core/mpi/silent_ranks.hpp"

namespace supernode::pool {

Pool::Pool(const Communicator& comm, std::vector<int> owners, const PoolConfig& config)
    : core_(std::make_unique<internal::PoolCore>(comm, std::move(owners), config)) {}

Pool::~Pool() {
  if (std::uncaught_exceptions() > 0) {
    // An error is on its way out of this rank alone: meeting the others here would only hide it.
    static_cast<void>(core_.release());
    return;
  }
  try {
    if (core_->serve_until_all(core_->comm, {.deadline_s = core_->config.close_deadline})) return;
    log(LogLevel::error, "rank {} closed its pool, but others did not within {} s", core_->comm.rank(),
        core_->config.close_deadline);
  } catch (const std::exception& failure) {
    log(LogLevel::error, "rank {} cannot close its pool: {}", core_->comm.rank(), failure.what());
  }
  abort_job(static_cast<int>(ExitCode::environment));
}

bool Pool::is_owner() const { return core_->shard.has_value(); }
const PoolConfig& Pool::config() const { return core_->config; }
const std::vector<int>& Pool::owners() const { return core_->owners; }
const Ring& Pool::view() const { return core_->ring; }
bool Pool::progress() { return core_->progress(); }
bool Pool::stopped() const { return core_->stopped; }

void Pool::serve_until_stopped(const std::function<void()>& between) {
  expect(is_owner(), "serve_until_stopped() on a rank that owns nothing");
  SpinWait spin(Idle::sleep);
  while (!core_->stopped) {
    if (between) between();
    if (core_->progress())
      spin.reset();
    else
      spin.turn();
  }
}

void Pool::serve_until_all(const Communicator& comm, const std::function<void()>& work, const ServeWait& wait) {
  std::exception_ptr failure;
  try {
    if (work) work();
  } catch (...) {
    failure = std::current_exception();
  }
  if (!core_->serve_until_all(comm, wait)) {
    if (failure) std::rethrow_exception(failure);
    throw TimeoutError(fmt::format("rank {} serves the pool: not all ranks came within {:g} s{}", comm.rank(),
                                   wait.deadline_s, find_silent_ranks(comm)));
  }
  agree(comm, failure);
}

bool Pool::stop() {
  bool all = true;
  for (const int owner : core_->owners) all &= core_->call(owner, internal::Stop{}).has_value();
  return all;
}

Status Pool::create_namespace(const std::string& name, std::uint64_t quota_per_owner) {
  std::map<int, std::uint64_t> quotas;
  for (const int owner : core_->owners) quotas[owner] = quota_per_owner;
  return core_->create_namespace(name, quotas, internal::NamespaceKind::evictable);
}

Status Pool::delete_namespace(const std::string& name) { return core_->delete_namespace(name); }

void Pool::simulate_silence(double seconds, MemoryFate memory) {
  expect(is_owner(), "simulate_silence() on a rank that owns nothing");
  if (memory == MemoryFate::lost) core_->shard->lose_memory();
  std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
  if (memory == MemoryFate::lost) core_->start_shard();
}

OwnerStats Pool::owner_stats() const {
  expect(is_owner(), "owner_stats() on a rank that owns nothing");
  return core_->shard->stats();
}

std::uint64_t Pool::huge_page_bytes() const { return supernode::huge_page_bytes(core_->segment.local()); }

std::optional<OwnerStats> Pool::fetch_stats(int owner) {
  const std::optional<internal::StatsReply> reply = core_->call(owner, internal::Stats{});
  if (!reply) return std::nullopt;
  return reply->stats;
}

}  // namespace supernode::pool
