#pragma once
// The two halves of a token exchange.

#include <string_view>

namespace supernode {

/// dispatch: tokens to their experts; combine: the experts' sums back.
enum class Phase { dispatch, combine };

constexpr std::string_view name_of(Phase phase) { return phase == Phase::dispatch ? "dispatch" : "combine"; }

}  // namespace supernode
