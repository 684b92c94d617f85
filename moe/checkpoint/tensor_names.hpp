#pragma once
// Which tensors a model of a configuration reads.

#include <string>
#include <string_view>
#include <vector>

#include "moe/model_config.hpp"

namespace supernode::moe {

/// What becomes of a checkpoint's tensors, by their names.
struct TensorUse {
  std::vector<std::string> read;     ///< by the model or its MTP module
  std::vector<std::string> foreign;  ///< in a computed layer, or of a layer beyond the last: nobody reads them
  std::vector<std::string> unread;   ///< elsewhere; without those that every copy of the architecture may have
};

/// Layers from num_hidden_layers on are MTP modules if they have an eh_proj; the first of them is read where the
/// configuration names it, the others may be there. Pure.
TensorUse use_of_tensors(const std::vector<std::string>& names, const ModelConfig& config);

}  // namespace supernode::moe
