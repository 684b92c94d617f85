#pragma once
// The role of each rank of a serving world. Pure.

#include <string>

#include "runtime/serving/serving_config.hpp"

namespace supernode::serving {

enum class Role { coordinator, prefill, decode, cache };

std::string_view to_string(Role role);

/// A rank's part: rank 0 is the coordinator, then the prefill instances, the decode instances, the cache ranks.
struct Part {
  Role role = Role::coordinator;
  int instance = 0;  ///< which prefill or decode instance; 0 elsewhere
  int die = 0;       ///< which die of the instance; which cache rank
};

/// 1 + prefill + decode + cache.
int world_size(const ServingConfig& config);
/// @pre 0 <= rank < world_size(config)
Part part_of(const ServingConfig& config, int rank);
/// The rank of a die; inverse of part_of.
int prefill_rank(const ServingConfig& config, int instance, int die);
int decode_rank(const ServingConfig& config, int instance, int die);
int cache_rank(const ServingConfig& config, int index);

/// One number for each instance: dies with the same one work together. -1: the rank holds no part of a model.
int instance_color(const ServingConfig& config, const Part& part);

/// @throws UsageError naming the right number when `size` is not world_size(config).
void check_world_size(const ServingConfig& config, int size);

}  // namespace supernode::serving
