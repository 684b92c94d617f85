#pragma once
// From any checkpoint to the HDF5 form.

#include <cstdint>
#include <string>

#include "moe/checkpoint.hpp"
#include "moe/compute_type.hpp"
#include "moe/products/smoothing.hpp"
#include "runtime/core/new_file.hpp"

namespace supernode::moe {

struct ImportSummary {
  std::size_t tensors = 0;
  std::uint64_t bytes_read = 0, bytes_written = 0;
  /// Of the matrices that became int8: root of (sum of squared errors / sum of squares), and how much larger it were
  /// had every channel's scale been its largest magnitude / 127.
  double int8_error = 0, int8_error_unsearched = 0;
};

/// Writes `from` to the new file `output`, one tensor in memory at a time. Vectors (norms, biases) and gates are stored
/// as f32; matrices as `type`; but under int8 embedding, head, kv_b_proj and the projection of MTP modules as bf16. An
/// int8 channel's scale is the one among a few fractions of its largest magnitude that loses least. Local.
/// @param smoothing factors that go into the tensors before; see there
/// @throws UsageError when `output` exists and is to be kept, a tensor cannot be read or an expert is missing;
/// EnvironmentError when it cannot be written. Nothing is left then.
ImportSummary import_checkpoint(Checkpoint& from, const std::string& output, ComputeType type,
                                const Smoothing& smoothing = {}, IfExists if_exists = IfExists::refuse);

}  // namespace supernode::moe
