#include "memory_pool/files/file_tier.hpp"

#include <algorithm>
#include <utility>

#include "runtime/core/error.hpp"
#include "runtime/core/log.hpp"

namespace supernode::pool::internal {

namespace {

std::vector<NamespaceTerms> remembered(const std::string& directory) {
  try {
    return read_namespaces(directory);
  } catch (const UsageError& damage) {
    log(LogLevel::warning, "{}: namespaces have no promise until they are created again", damage.what());
    return {};
  }
}

}  // namespace

FileTier::FileTier(const PoolConfig& config, const std::string& directory)
    : directory_(directory),
      log_(directory, config.directory_limit.value, config.directory_segment.value, config.directory_direct.value),
      namespaces_(remembered(directory)),
      to_disk_(config.directory_sync == DirectorySync::disk),
      files_per_dram_(static_cast<double>(log_.keep_bytes()) / static_cast<double>(config.capacity.value)),
      most_waiting_(config.store_buffer.value),
      stats_(log_.stats()),
      thread_([this] { work(); }) {}

FileTier::~FileTier() {
  {
    const std::lock_guard lock(mutex_);
    closing_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

void FileTier::push(Job job) {
  {
    const std::lock_guard lock(mutex_);
    waiting_bytes_ += job.payload.size();
    jobs_.push_back(std::move(job));
  }
  wake_.notify_one();
}

bool FileTier::store(std::uint64_t tag, const Name& name, std::span<const std::byte> payload, std::uint64_t checksum) {
  {
    const std::lock_guard lock(mutex_);
    if (waiting_bytes_ + payload.size() > most_waiting_) {
      ++refused_;
      return false;
    }
  }
  push({Kind::store, tag, {name}, {payload.begin(), payload.end()}, checksum});
  return true;
}

void FileTier::remove(std::uint64_t tag, const Name& name) { push({Kind::remove, tag, {name}, {}, 0}); }

void FileTier::load(std::uint64_t tag, std::vector<Name> names) { push({Kind::load, tag, std::move(names), {}, 0}); }

void FileTier::remove_namespace(std::uint64_t tag, NamespaceId name_space) {
  push({Kind::remove_namespace, tag, {{{}, name_space}}, {}, 0});
}

void FileTier::promise(NamespaceId name_space, std::uint64_t quota) {
  const auto share = static_cast<std::uint64_t>(files_per_dram_ * static_cast<double>(quota));
  push({Kind::promise, 0, {{{}, name_space}}, {}, share});
}

void FileTier::remove_if(std::function<bool(const Key&)> gone) {
  push({Kind::remove_if, 0, {}, {}, 0, std::move(gone)});
}

void FileTier::keep_namespaces(std::uint64_t tag, std::vector<NamespaceTerms> terms) {
  push({Kind::keep_namespaces, tag, {}, {}, 0, {}, std::move(terms)});
}

std::vector<FileTier::Done> FileTier::poll() {
  const std::lock_guard lock(mutex_);
  return std::exchange(done_, {});
}

LogStats FileTier::stats() const {
  const std::lock_guard lock(mutex_);
  LogStats stats = stats_;
  stats.write_errors += refused_;
  return stats;
}

FileTier::Done FileTier::run(const Job& job) {
  Done done;
  done.tag = job.tag;
  switch (job.kind) {
    case Kind::store:
      done.good = log_.append(job.names.front(), job.payload, job.number);
      break;
    case Kind::remove:
      done.good = log_.contains(job.names.front());
      log_.remove(job.names.front());
      break;
    case Kind::load:
      for (const Name& name : job.names) done.loaded.push_back(log_.read(name));
      done.good = true;
      break;
    case Kind::remove_namespace:
      done.good = log_.holds(job.names.front().name_space);
      log_.remove_namespace(job.names.front().name_space);
      break;
    case Kind::promise:
      log_.promise(job.names.front().name_space, job.number);
      break;
    case Kind::remove_if:
      log_.remove_if(job.gone);
      break;
    case Kind::keep_namespaces:
      done.good = write_namespaces(directory_, job.terms);
      break;
  }
  return done;
}

void FileTier::work() {
  std::unique_lock lock(mutex_);
  while (true) {
    wake_.wait(lock, [this] { return closing_ || !jobs_.empty(); });
    if (jobs_.empty()) return;
    const std::deque<Job> batch = std::exchange(jobs_, {});
    lock.unlock();
    const std::uint64_t errors_before = log_.stats().write_errors;
    std::vector<Done> done;
    std::uint64_t bytes = 0;
    bool wrote = false;
    for (const Job& job : batch) {
      done.push_back(run(job));
      bytes += job.payload.size();
      wrote |= job.kind != Kind::load && job.kind != Kind::promise && job.kind != Kind::keep_namespaces;
    }
    if (wrote && to_disk_ && !log_.sync())
      for (std::size_t i = 0; i < done.size(); ++i) done[i].good &= batch[i].kind != Kind::store;
    if (log_.stats().write_errors > errors_before && errors_before == 0)
      log(LogLevel::warning, "pool.directory: a block could not be written; the pool goes on without it there");
    lock.lock();
    stats_ = log_.stats();
    waiting_bytes_ -= bytes;
    std::move(done.begin(), done.end(), std::back_inserter(done_));
  }
}

}  // namespace supernode::pool::internal
