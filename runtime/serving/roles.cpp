#include "runtime/serving/roles.hpp"

#include <fmt/format.h>

#include "runtime/core/error.hpp"

namespace supernode::serving {

std::string_view to_string(Role role) {
  switch (role) {
    case Role::coordinator:
      return "coordinator";
    case Role::prefill:
      return "prefill";
    case Role::decode:
      return "decode";
    case Role::cache:
      return "cache";
  }
  return "";
}

int prefill_rank(const ServingConfig& c, int instance, int die) { return 1 + instance * c.prefill_dies + die; }

int decode_rank(const ServingConfig& c, int instance, int die) {
  return prefill_rank(c, c.prefill_instances, 0) + instance * c.decode_dies + die;
}

int cache_rank(const ServingConfig& c, int index) { return decode_rank(c, c.decode_instances, 0) + index; }

int world_size(const ServingConfig& c) { return cache_rank(c, c.cache_ranks); }

int instance_color(const ServingConfig& c, const Part& part) {
  if (part.role == Role::prefill) return part.instance;
  if (part.role == Role::decode) return c.prefill_instances + part.instance;
  return -1;
}

Part part_of(const ServingConfig& c, int rank) {
  if (rank == 0) return {};
  if (const int i = rank - prefill_rank(c, 0, 0); i < c.prefill_instances * c.prefill_dies)
    return {Role::prefill, i / c.prefill_dies, i % c.prefill_dies};
  if (const int i = rank - decode_rank(c, 0, 0); i < c.decode_instances * c.decode_dies)
    return {Role::decode, i / c.decode_dies, i % c.decode_dies};
  return {Role::cache, 0, rank - cache_rank(c, 0)};
}

void check_world_size(const ServingConfig& c, int size) {
  if (size == world_size(c)) return;
  throw UsageError(fmt::format(
      "this deployment needs {} ranks (1 coordinator + {}x{} prefill + {}x{} decode + {} cache), but the world has {}: "
      "start it with mpirun -n {}",
      world_size(c), c.prefill_instances, c.prefill_dies, c.decode_instances, c.decode_dies, c.cache_ranks, size,
      world_size(c)));
}

}  // namespace supernode::serving
