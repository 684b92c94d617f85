#pragma once
// The import of any checkpoint into the HDF5 form.

#include <cstdint>
#include <string>

#include "moe/checkpoint.hpp"
#include "moe/compute_type.hpp"
#include "runtime/core/new_file.hpp"

namespace supernode::moe {

struct ImportSummary {
  std::size_t tensors = 0;
  std::uint64_t bytes_read = 0, bytes_written = 0;
  /// Error of the matrices that became int8, root of (sum of squared errors / sum of squares), and what it were had
  /// every channel's scale been its largest magnitude / 127.
  double int8_error = 0, int8_error_unsearched = 0;
  /// Groups of products whose activations were looked at for outliers, and those that got factors.
  int groups = 0, smoothed_groups = 0;
  double smoothing_error_ratio = 1;  ///< estimated squared error of all products with the factors over that without
};

/// Whether factors that move outliers from activations into weights are searched and applied (README.md, Types). They
/// change no bit of the model in f32.
enum class OutlierSmoothing { none, search };

/// Writes `from` to the new file `output`, one tensor in memory at a time, without tensors that nobody reads and nobody
/// could (of a type that is not known here). Vectors (norms, biases) and gates are stored as f32; matrices as `type`;
/// but under int8 embedding, head, kv_b_proj and the projection of MTP modules as bf16. An int8 channel's scale is the
/// one among a few fractions of its largest magnitude that loses least. Local.
/// @throws UsageError when `output` exists and is to be kept, a tensor cannot be read or an expert is missing;
/// EnvironmentError when it cannot be written. Nothing is left then.
ImportSummary import_checkpoint(Checkpoint& from, const std::string& output, ComputeType type,
                                OutlierSmoothing smoothing = OutlierSmoothing::none,
                                IfExists if_exists = IfExists::refuse);

}  // namespace supernode::moe
