#pragma once
// The file tier of an owner: a record log, and the thread that does its input and output. No MPI.

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "memory_pool/config.hpp"
#include "memory_pool/internal/record_log.hpp"

namespace supernode::pool::internal {

/// Jobs are done in the order in which they are given. All calls from one thread.
class FileTier {
 public:
  /// @param directory of this owner alone. @throws EnvironmentError as RecordLog.
  FileTier(const PoolConfig& config, const std::string& directory);
  /// Finishes all jobs.
  ~FileTier();
  FileTier(const FileTier&) = delete;
  FileTier& operator=(const FileTier&) = delete;

  /// What has become of a job.
  struct Done {
    std::uint64_t tag = 0;
    bool good = false;  ///< store: written, as durable as PoolConfig::directory_sync says; remove: it was there
    std::vector<std::optional<RecordLog::Payload>> loaded;  ///< load: of each name
  };
  /// False, at once, when more than PoolConfig::store_buffer bytes wait already.
  bool store(std::uint64_t tag, const Name& name, std::span<const std::byte> payload, std::uint64_t checksum);
  void remove(std::uint64_t tag, const Name& name);
  void load(std::uint64_t tag, std::vector<Name> names);
  /// Jobs that have ended since the last call.
  std::vector<Done> poll();

  LogStats stats() const;

 private:
  enum class Kind { store, remove, load };
  struct Job {
    Kind kind;
    std::uint64_t tag;
    std::vector<Name> names;
    std::vector<std::byte> payload;
    std::uint64_t checksum = 0;
  };
  void push(Job job);
  void work();
  Done run(const Job& job);

  RecordLog log_;  ///< of the thread, once it runs
  bool to_disk_;
  std::uint64_t most_waiting_;
  mutable std::mutex mutex_;  ///< of all below
  std::condition_variable wake_;
  std::deque<Job> jobs_;
  std::vector<Done> done_;
  std::uint64_t waiting_bytes_ = 0, refused_ = 0;
  bool closing_ = false;
  LogStats stats_;
  std::thread thread_;
};

}  // namespace supernode::pool::internal
