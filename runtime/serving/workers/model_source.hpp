#pragma once
// Where the dies of a deployment get their model from: its files, or the pool, which read them once.

#include <memory>
#include <string>

#include "memory_pool/pool.hpp"
#include "moe/transformer.hpp"
#include "runtime/core/mpi/communicator.hpp"

namespace supernode::serving {

/// A model's place and its newest file: blocks may outlive a run in files, and a model that was changed in place must
/// not meet them. Rank 0's view counts, since copies on other hosts have other times. Collective.
std::string model_identity(const Communicator& world, const std::string& checkpoint);

struct BuiltModel {
  std::unique_ptr<moe::Transformer> model;  ///< null on ranks of no instance
  /// Sizes of a model from the pool, equal on all ranks: all of its files, and what was read of them.
  std::uint64_t bytes = 0, bytes_read = 0;
};

/// Every rank of an instance builds its part of the model from the files. Collective over `world`.
/// @param instance this rank's, null on ranks of none
/// @throws AgreedError on all ranks for a bad checkpoint
BuiltModel build_from_files(const Communicator& world, const Communicator& instance, const std::string& checkpoint,
                            const moe::TransformerOptions& options);

/// The same from the pool, into which its owners read the files first, once. Collective over `world`.
/// @throws AgreedError also when the pool cannot hold the files
BuiltModel build_from_pool(const Communicator& world, const Communicator& instance, pool::Pool& pool,
                           const std::string& checkpoint, const std::string& identity,
                           const moe::TransformerOptions& options);

}  // namespace supernode::serving
