#pragma once
// Packing of a checkpoint's matrices.

#include <span>
#include <string>

#include "moe/checkpoint.hpp"
#include "moe/products/gemm.hpp"

namespace supernode::moe {

/// A matrix of a checkpoint by name, and its outputs.
struct NamedMatrix {
  std::string name;
  int n_out = 0;
};

/// The matrices, which have the same inputs, as one: their outputs one after the other. Matrices that are stored as
/// int8 stay as they are if `type` is that. @throws UsageError as Checkpoint::read.
PackedMatrix pack_together(Checkpoint& checkpoint, std::span<const NamedMatrix> matrices, int n_in, ComputeType type,
                           Gemm& gemm);
inline PackedMatrix pack_one(Checkpoint& checkpoint, const NamedMatrix& matrix, int n_in, ComputeType type,
                             Gemm& gemm) {
  return pack_together(checkpoint, {&matrix, 1}, n_in, type, gemm);
}

}  // namespace supernode::moe
