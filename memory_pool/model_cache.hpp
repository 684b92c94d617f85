#pragma once
// The model cache: the files of a model's checkpoint as blocks of the pool, one copy for everybody.

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "memory_pool/client.hpp"
#include "runtime/core/file_source.hpp"

namespace supernode::pool {

namespace internal {
struct ModelContents;
}

struct ModelId {
  std::string model, version;
  friend bool operator==(const ModelId&, const ModelId&) = default;
};

class PooledModel;

/// Not collective; a rank may have several. Must not outlive its pool; one thread.
///
/// A model is a namespace of its own, with a quota on each owner for exactly its blocks: none of them is evicted
/// alone, for anybody. When there is no room for a model that is wanted, the least recently used one that is not open
/// anywhere goes as a whole. Which models there are is known to the first owner in the view, `ModelDirectory`; if that
/// owner is lost, models are found again by their blocks when they are prefetched next.
class ModelCache {
 public:
  /// `block_bytes`: of the blocks that this rank stores, at least 1.
  explicit ModelCache(Pool& pool, std::uint64_t block_bytes = 1u << 20);
  ~ModelCache();

  /// All blocks of the model are there now. One batched lookup.
  bool contains(const ModelId& id);

  struct Outcome {
    /// stored: this rank brought it in; already_there: it was there, or another rank has brought it in meanwhile; full
    /// or quota: it does not fit, even without the models that are not in use; owner_down.
    Status status{};
    std::uint64_t bytes = 0;       ///< of the model's files
    std::uint64_t bytes_read = 0;  ///< by this rank from `source`; of all who ask at once, one reads
  };
  /// Brings all files of `source` into the pool, unless they are there; waits while another rank is at it.
  /// @throws what source.read() throws; nothing of the model stays then.
  Outcome prefetch(const ModelId& id, FileSource& source);

  /// The files of a model that is there, for reading; null when it is not. As long as it is open, it is not evicted.
  std::shared_ptr<PooledModel> open(const ModelId& id);
  /// Opens `to`, and closes `current` when that has worked: a change between models that are both there costs no file
  /// access and no second copy. @returns false, and changes nothing, when `to` is not there.
  bool switch_to(std::shared_ptr<PooledModel>& current, const ModelId& to);

  /// Removes the model, open or not: readers meet misses. removed, not_there or owner_down.
  Status remove(const ModelId& id);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// A model's files, read from the pool block by block, one-sided and verified. Many ranks may read at once. Must not
/// outlive the pool.
class PooledModel : public FileSource {
 public:
  /// By ModelCache::open(), which has pinned the model.
  PooledModel(Pool& pool, const ModelId& id, std::unique_ptr<internal::ModelContents> contents);
  ~PooledModel() override;
  PooledModel(const PooledModel&) = delete;
  PooledModel& operator=(const PooledModel&) = delete;

  const ModelId& id() const { return id_; }
  std::uint64_t total_bytes() const;

  std::string place() const override;
  std::vector<std::string> names() const override;
  std::optional<std::uint64_t> size(const std::string& name) const override;
  /// @throws EnvironmentError naming model, file and the reason of the miss when a block has been lost.
  void read(const std::string& name, std::uint64_t offset, std::span<std::byte> out) override;

 private:
  Pool& pool_;
  ModelId id_;
  std::unique_ptr<internal::ModelContents> contents_;
  Client client_;
};

}  // namespace supernode::pool
