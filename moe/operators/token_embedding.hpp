#pragma once
// Tokens to rows.

#include <cstdint>
#include <string>
#include <vector>

#include "moe/checkpoint.hpp"
#include "moe/compute_type.hpp"

namespace supernode::moe {

/// The rows of an embedding matrix. Held as bf16 where the model is not f32 or nothing is lost by it, else as f32.
class TokenEmbedding {
 public:
  /// Reads `name` [vocab, hidden]. @throws UsageError as Checkpoint::read.
  TokenEmbedding(Checkpoint& checkpoint, const std::string& name, ComputeType type);

  /// Writes the row of `token` to out [hidden].
  void copy_row(std::int32_t token, float* out) const;

 private:
  std::size_t width_;
  std::vector<std::uint16_t> halves_;
  std::vector<float> values_;
};

}  // namespace supernode::moe
