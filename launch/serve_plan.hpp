#pragma once
// What a deployment needs, without a run: `serve --dry-run`.

#include <memory>
#include <string>

#include "collectives/selection/rules.hpp"
#include "moe/model_config.hpp"
#include "runtime/serving/server.hpp"

namespace supernode::launch {

/// Ranks by role and memory of each, as text. Local. @param rules by which "auto" chooses in the run
std::string plan_text(const serving::ServeOptions& options, const moe::ModelConfig& model,
                      std::shared_ptr<const collectives::SelectionRules> rules);

}  // namespace supernode::launch
