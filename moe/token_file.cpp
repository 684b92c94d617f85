#include "moe/token_file.hpp"

#include <fmt/format.h>

#include "moe/checkpoint/safetensors.hpp"
#include "runtime/core/error.hpp"

namespace supernode::moe {

TokenTable read_token_table(const std::string& path) {
  const SafetensorsFile file(path);
  const TensorView& tensor = file.at("tokens");
  if (tensor.shape.size() != 2 || tensor.size() == 0)
    throw UsageError(
        fmt::format("{}: tensor 'tokens' has shape {}, not [batch, length]", path, shape_text(tensor.shape)));
  TokenTable table{static_cast<std::size_t>(tensor.shape[0]), static_cast<std::size_t>(tensor.shape[1]),
                   std::vector<std::int32_t>(tensor.size())};
  if (!convert_to_i32(tensor, table.values))
    throw UsageError(fmt::format("{}: tensor 'tokens' is {}, not I32", path, element_name(tensor.type)));
  return table;
}

void write_logits(const std::string& path, const TokenTable& tokens, std::size_t vocab, std::span<const float> logits,
                  IfExists if_exists) {
  const TensorToWrite tensor{"logits",
                             ElementType::f32,
                             {static_cast<std::int64_t>(tokens.batch), static_cast<std::int64_t>(tokens.length),
                              static_cast<std::int64_t>(vocab)},
                             std::as_bytes(logits)};
  write_safetensors(path, {&tensor, 1}, if_exists);
}

}  // namespace supernode::moe
