#include "runtime/serving/workers/model_source.hpp"

#include <algorithm>
#include <filesystem>
#include <functional>

#include <fmt/format.h>

#include "memory_pool/model_cache.hpp"
#include "moe/checkpoint.hpp"
#include "runtime/core/mpi/agreement.hpp"

namespace supernode::serving {
namespace {

std::string identity_of(const std::string& checkpoint) {
  std::error_code ignored;
  auto newest = std::filesystem::last_write_time(checkpoint, ignored);
  for (const auto& entry : std::filesystem::directory_iterator(checkpoint, ignored))
    newest = std::max(newest, entry.last_write_time(ignored));
  return fmt::format("{}@{}", std::filesystem::absolute(checkpoint, ignored).lexically_normal().string(),
                     newest.time_since_epoch().count());
}

/// While some ranks read a model, the others wait for them: so long at most. A large model on a slow disk takes a while.
constexpr pool::ServeWait until_read{.deadline_s = 3600};

}  // namespace

std::string model_identity(const Communicator& world, const std::string& checkpoint) {
  return world.broadcast(world.rank() == 0 ? identity_of(checkpoint) : "");
}

BuiltModel build_from_files(const Communicator& world, const Communicator& instance, const std::string& checkpoint,
                            const moe::TransformerOptions& options) {
  BuiltModel built;
  // A bad checkpoint is agreed within an instance first, then by all.
  collectively(world, [&] {
    if (instance) built.model = std::make_unique<moe::Transformer>(checkpoint, options, instance);
  });
  return built;
}

BuiltModel build_from_pool(const Communicator& world, const Communicator& instance, pool::Pool& pool,
                           const std::string& checkpoint, const std::string& identity,
                           const moe::TransformerOptions& options) {
  const pool::ModelId id{checkpoint, identity};
  pool::ModelCache models(pool);
  pool::ModelCache::Outcome outcome;
  const std::function<void()> read_files = [&] {
    DiskFiles files = moe::Checkpoint::files_of(checkpoint);
    outcome = models.prefetch(id, files);
    if (outcome.status == pool::Status::stored || outcome.status == pool::Status::already_there) return;
    throw UsageError(fmt::format(
        "--model-from-pool: {} has {} bytes, which {} cache rank(s) with pool.capacity = {} cannot hold ({})",
        checkpoint, outcome.bytes, pool.owners().size(), pool.config().capacity.value, to_string(outcome.status)));
  };
  BuiltModel built;
  const std::function<void()> build = [&] {
    if (!instance) return;
    moe::Checkpoint files = collectively(instance, [&] {
      std::shared_ptr<pool::PooledModel> pooled = models.open(id);
      if (!pooled) throw EnvironmentError(fmt::format("{}: no longer in the pool", id.model));
      return moe::Checkpoint(std::move(pooled));
    });
    built.model = std::make_unique<moe::Transformer>(std::move(files), options, instance);
  };
  const std::function<void()> nothing;
  pool.serve_until_all(world, pool.is_owner() ? read_files : nothing, until_read);
  pool.serve_until_all(world, pool.is_owner() ? nothing : build, until_read);
  built.bytes = static_cast<std::uint64_t>(world.max(static_cast<long long>(outcome.bytes)));
  built.bytes_read = static_cast<std::uint64_t>(world.sum(static_cast<long long>(outcome.bytes_read)));
  return built;
}

}  // namespace supernode::serving
