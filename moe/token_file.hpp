#pragma once
// safetensors files of token ids to be computed, and of the logits that they get.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "runtime/core/new_file.hpp"

namespace supernode::moe {

/// Token ids [batch, length].
struct TokenTable {
  std::size_t batch = 0, length = 0;
  std::vector<std::int32_t> values;

  std::span<const std::int32_t> sequence(std::size_t index) const {
    return std::span(values).subspan(index * length, length);
  }
};

/// Tensor 'tokens' [batch, length] of the safetensors file `path`. Local. @throws UsageError naming the file: missing,
/// malformed, without that tensor, or with one of another shape or type.
TokenTable read_token_table(const std::string& path);

/// Writes tensor 'logits' [batch, length, vocab] to the new safetensors file `path`. Local. @throws UsageError when
/// `path` exists, EnvironmentError when it cannot be written in full.
void write_logits(const std::string& path, const TokenTable& tokens, std::size_t vocab, std::span<const float> logits,
                  IfExists if_exists = IfExists::refuse);

}  // namespace supernode::moe
