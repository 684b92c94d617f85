#include "runtime/serving/workers/model_source.hpp"

#include <algorithm>
#include <exception>
#include <filesystem>
#include <functional>

#include <fmt/format.h>

#include "memory_pool/model_cache.hpp"
#include "moe/checkpoint.hpp"
#include "runtime/core/mpi/agreement.hpp"
#include "runtime/core/mpi/deadline.hpp"
#include "runtime/core/mpi/mpi_call.hpp"

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

/// Runs `step` on the ranks that own no part of the pool, and on owners `owner_step`, while all owners serve. Then
/// agrees on the outcome.
void with_owners_serving(const Communicator& world, pool::Pool& pool, const std::function<void()>& step,
                         const std::function<void()>& owner_step) {
  std::exception_ptr failure;
  try {
    pool.is_owner() ? owner_step() : step();
  } catch (...) {
    failure = std::current_exception();
  }
  MPI_Request everyone = MPI_REQUEST_NULL;
  SUPERNODE_MPI(MPI_Ibarrier(world.get(), &everyone));
  SpinWait spin(Idle::sleep);
  for (int here = 0; !here;) {
    if (pool.progress())
      spin.reset();
    else
      spin.turn();
    SUPERNODE_MPI(MPI_Test(&everyone, &here, MPI_STATUS_IGNORE));
  }
  agree(world, failure);
}

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
  const auto read_files = [&] {
    DiskFiles files = moe::Checkpoint::files_of(checkpoint);
    outcome = models.prefetch(id, files);
    if (outcome.status == pool::Status::stored || outcome.status == pool::Status::already_there) return;
    throw UsageError(fmt::format(
        "--model-from-pool: {} has {} bytes, which {} cache rank(s) with pool.capacity = {} cannot hold ({})",
        checkpoint, outcome.bytes, pool.owners().size(), pool.config().capacity.value, to_string(outcome.status)));
  };
  BuiltModel built;
  const auto build = [&] {
    if (!instance) return;
    moe::Checkpoint files = collectively(instance, [&] {
      std::shared_ptr<pool::PooledModel> pooled = models.open(id);
      if (!pooled) throw EnvironmentError(fmt::format("{}: no longer in the pool", id.model));
      return moe::Checkpoint(std::move(pooled));
    });
    built.model = std::make_unique<moe::Transformer>(std::move(files), options, instance);
  };
  with_owners_serving(
      world, pool, [] {}, read_files);
  with_owners_serving(world, pool, build, [] {});
  built.bytes = static_cast<std::uint64_t>(world.max(static_cast<long long>(outcome.bytes)));
  built.bytes_read = static_cast<std::uint64_t>(world.sum(static_cast<long long>(outcome.bytes_read)));
  return built;
}

}  // namespace supernode::serving
