#pragma once
// The file tier of an owner: a record log, and the thread that does its input and output. No MPI.

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "memory_pool/config.hpp"
#include "memory_pool/files/namespace_file.hpp"
#include "memory_pool/files/record_log.hpp"

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
    bool good = false;  ///< store: written, as durable as PoolConfig::directory_sync says; removals: it was there
    std::vector<std::optional<RecordLog::Payload>> loaded;  ///< load: of each name
  };
  /// False, at once, when more than PoolConfig::store_buffer bytes wait already.
  bool store(std::uint64_t tag, const Name& name, std::span<const std::byte> payload, std::uint64_t checksum);
  void remove(std::uint64_t tag, const Name& name);
  void load(std::uint64_t tag, std::vector<Name> names);
  /// All records of a namespace, and what was promised to it.
  void remove_namespace(std::uint64_t tag, NamespaceId name_space);
  /// Keeps as large a share of the files for a namespace as `quota` is of the DRAM. No answer.
  void promise(NamespaceId name_space, std::uint64_t quota);
  /// Removes the records of all keys that `gone` names; it is called by the thread. No answer.
  void remove_if(std::function<bool(const Key&)> gone);
  /// Remembers the namespaces for the next start.
  void keep_namespaces(std::uint64_t tag, std::vector<NamespaceTerms> terms);
  /// Those that were remembered at this start.
  const std::vector<NamespaceTerms>& namespaces() const { return namespaces_; }
  /// Jobs that have ended since the last call.
  std::vector<Done> poll();

  LogStats stats() const;

 private:
  enum class Kind { store, remove, load, remove_namespace, promise, remove_if, keep_namespaces };
  struct Job {
    Kind kind;
    std::uint64_t tag;
    std::vector<Name> names;
    std::vector<std::byte> payload;
    std::uint64_t number = 0;  ///< store: the checksum; promise: bytes
    std::function<bool(const Key&)> gone = {};
    std::vector<NamespaceTerms> terms = {};
  };
  void push(Job job);
  void work();
  Done run(const Job& job);

  const std::string directory_;
  RecordLog log_;  ///< of the thread, once it runs
  std::vector<NamespaceTerms> namespaces_;
  bool to_disk_;
  double files_per_dram_;  ///< bytes that the files may keep for each byte of DRAM
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
