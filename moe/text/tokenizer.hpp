#pragma once
// Text and tokens. Models whose vocabulary is bytes read and write text; others take token ids only.

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "moe/model_config.hpp"

namespace supernode::moe {

class Tokenizer {
 public:
  explicit Tokenizer(const ModelConfig& config) : bytes_(config.tokenizer == "bytes") {}

  bool has_text() const { return bytes_; }
  /// @throws UsageError when the model has no text form.
  std::vector<std::int32_t> encode(std::string_view text) const;
  /// The bytes of `tokens`; empty when the model has no text form.
  std::string decode(std::span<const std::int32_t> tokens) const;

 private:
  bool bytes_;
};

}  // namespace supernode::moe
