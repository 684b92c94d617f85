#include "moe/text/tokenizer.hpp"

#include "runtime/core/error.hpp"

namespace supernode::moe {
std::vector<std::int32_t> Tokenizer::encode(std::string_view text) const {
  if (!bytes_)
    throw UsageError("this model has no tokenizer here (config.json says no \"tokenizer\": \"bytes\"): give token ids");
  std::vector<std::int32_t> tokens;
  tokens.reserve(text.size());
  for (const char c : text) tokens.push_back(static_cast<unsigned char>(c));
  return tokens;
}

std::string Tokenizer::decode(std::span<const std::int32_t> tokens) const {
  std::string text;
  if (!bytes_) return text;
  text.reserve(tokens.size());
  for (const std::int32_t token : tokens) text += static_cast<char>(static_cast<unsigned char>(token));
  return text;
}

}  // namespace supernode::moe
