#include "memory_pool/client/store_queue.hpp"

#include "memory_pool/owner/bucket_table.hpp"
#include "runtime/core/mpi/deadline.hpp"

namespace supernode::pool::internal {
namespace {

// Stores in flight. Each holds a block at its owner, so there are many only where they are a small part of its memory;
// with few, a queue of small blocks would take as many round trips as it has blocks.
constexpr std::size_t always_active = 16, most_active = 256;
constexpr std::uint64_t shares_of_capacity = 32;

}  // namespace

StoreQueue::~StoreQueue() {
  for (const Job& job : active_) {
    if (job.request != 0) core_.forget(job.request);
    if (job.ticket != 0 && core_.ring.is_live(job.owner)) core_.abandon(job.owner, job.ticket);
  }
}

std::vector<Status> StoreQueue::store(std::span<const PutItem> items, PutMode mode) {
  std::vector<std::optional<Status>> outcomes(items.size());
  // In front of what is queued, and in order: each goes as soon as a place is free.
  auto next = waiting_.begin();
  for (std::size_t i = 0; i < items.size(); ++i) {
    Job& job = *waiting_.emplace(next, items[i].key, mode);
    job.data = items[i].data;
    job.outcome = &outcomes[i];
  }
  // A single one waits for nobody, however many others are under way.
  if (items.size() == 1) start_first();
  std::size_t done = 0;
  SpinWait spin;
  while (true) {
    const bool moved = advance();
    while (done < outcomes.size() && outcomes[done]) ++done;
    if (done == outcomes.size()) break;
    if (!core_.progress() && !moved) spin.turn();
  }
  std::vector<Status> result;
  for (const std::optional<Status>& outcome : outcomes) result.push_back(*outcome);
  return result;
}

bool StoreQueue::enqueue(const Key& key, std::vector<std::byte> data, PutMode mode) {
  if (!has_room(data.size())) {
    ++stats_.stores[static_cast<std::size_t>(Status::full)];
    return false;
  }
  queued_bytes_ += data.size();
  Job& job = waiting_.emplace_back(key, mode);
  job.owned = std::move(data);
  job.data = job.owned;
  advance();
  return true;
}

bool StoreQueue::advance() {
  bool moved = false;
  while (step_all()) moved = true;
  return moved;
}

bool StoreQueue::may_start(const Job& job) const {
  if (active_.size() < always_active) return true;
  return active_.size() < most_active &&
         active_bytes_ + job.data.size() <= core_.config.capacity.value / shares_of_capacity;
}

void StoreQueue::start_first() {
  active_bytes_ += waiting_.front().data.size();
  active_.splice(active_.end(), waiting_, waiting_.begin());
}

bool StoreQueue::step_all() {
  bool moved = false;
  while (!waiting_.empty() && may_start(waiting_.front())) start_first();
  for (auto it = active_.begin(); it != active_.end();) {
    std::optional<Status> finished;
    moved |= step(*it, finished);
    if (!finished) {
      ++it;
      continue;
    }
    ++stats_.stores[static_cast<std::size_t>(*finished)];
    if (*finished == Status::stored || *finished == Status::not_durable) stats_.bytes_written += it->data.size();
    if (it->request != 0) core_.forget(it->request);
    if (it->outcome) *it->outcome = *finished;
    queued_bytes_ -= it->owned.size();
    active_bytes_ -= it->data.size();
    it = active_.erase(it);
  }
  return moved;
}

void StoreQueue::ask(Job& job, Request request) {
  job.request = core_.ask(job.owner, std::move(request));
  job.since = core_.watched();
}

void StoreQueue::publish(Job& job) {
  ask(job, Publish{job.ticket, job.checksum, core_.segment.shared() ? Verification::none : Verification::checksum});
  job.stage = Stage::publishing;
}

bool StoreQueue::step(Job& job, std::optional<Status>& finished) {
  switch (job.stage) {
    case Stage::start:
      job.owner = core_.ring.owner_of(job.key);
      // Only the home may take a new version: an older one may lie there, and would be found when it is back.
      if (job.owner < 0 || (job.mode == PutMode::replace && core_.ring.home_of(job.key) != job.owner)) {
        finished = Status::owner_down;
        return true;
      }
      job.allocated_at = core_.now();
      ask(job, Allocate{job.key, name_space_, job.mode, job.data.size()});
      job.stage = Stage::allocating;
      return true;
    case Stage::writing:
      if (!job.put->test()) return expire(job, finished);
      publish(job);
      return true;
    case Stage::allocating: {
      const std::optional<Allocated> block = core_.take<Allocated>(job.request);
      if (!block) return expire(job, finished);
      job.request = 0;
      begin_put(job, *block, finished);
      return true;
    }
    case Stage::publishing: {
      const std::optional<Published> published = core_.take<Published>(job.request);
      if (!published) return expire(job, finished);
      job.request = 0;
      if (published->arrival == Arrival::complete) {
        finished = published->status;
        return true;
      }
      // The bytes are on their way; the time that they may take counts from the first attempt. Asking is no progress.
      const double since = job.since;
      publish(job);
      job.since = since;
      return expire(job, finished);
    }
  }
  return false;
}

/// The block is there: its bytes are written.
void StoreQueue::begin_put(Job& job, const Allocated& block, std::optional<Status>& finished) {
  if (block.status != Status::stored) {
    finished = block.status;
    return;
  }
  job.ticket = block.ticket;
  job.offset = block.offset;
  // Long ago: the owner may be about to give the block to somebody else. Or it has, because it started anew.
  const bool other_owner =
      core_.segment.shared() && block.incarnation != core_.segment.word(job.owner, core_.layout.header_offset);
  if (other_owner || core_.now() - job.allocated_at > core_.config.lease / 2) {
    core_.abandon(job.owner, job.ticket);
    finished = Status::not_there;
    return;
  }
  job.put.emplace(core_.segment);
  job.checksum = job.put->put(job.owner, core_.layout.payload_offset + job.offset, job.data);
  job.stage = Stage::writing;
}

bool StoreQueue::expire(const Job& job, std::optional<Status>& finished) {
  const bool gone = !core_.ring.is_live(job.owner);
  if (!gone && core_.watched() - job.since <= core_.config.deadline) return false;
  if (!gone) core_.drop(job.owner, "did not finish a store in time");
  // It may come back, and would keep the key for its writer until the lease ends.
  if (job.ticket != 0) core_.abandon(job.owner, job.ticket);
  finished = Status::owner_down;
  return true;
}

}  // namespace supernode::pool::internal
