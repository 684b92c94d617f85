#include "moe/operators/token_embedding.hpp"

#include <cstddef>
#include <cstring>

#include "moe/products/bf16.hpp"
#include "runtime/core/quantise.hpp"

namespace supernode::moe {

TokenEmbedding::TokenEmbedding(Checkpoint& checkpoint, const std::string& name, ComputeType type)
    : width_(static_cast<std::size_t>(checkpoint.config().hidden_size)),
      values_(checkpoint.read(name, {checkpoint.config().vocab_size, checkpoint.config().hidden_size})) {
  if (type == ComputeType::f32 && !is_bf16(values_)) return;
  halves_.resize(values_.size());
  to_bf16(values_, halves_.data());
  values_ = {};
}

void TokenEmbedding::copy_row(std::int32_t token, float* out) const {
  const std::size_t first = static_cast<std::size_t>(token) * width_;
  if (halves_.empty()) {
    std::memcpy(out, values_.data() + first, width_ * sizeof(float));
  } else {
    read_row(ElementType::bf16, reinterpret_cast<const std::byte*>(halves_.data() + first), 1, {out, width_});
  }
}

}  // namespace supernode::moe
