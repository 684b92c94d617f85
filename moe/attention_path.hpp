#pragma once

namespace supernode::moe {

/// How attention is computed; results agree to rounding. `automatic` takes for each sequence the one with fewer
/// operations, but for one or two tokens, decode, always the same: absorbed, or over keys and values that are kept
/// expanded where the model is small.
enum class AttentionPath { automatic, plain, absorbed };

}  // namespace supernode::moe
