#pragma once

namespace supernode::moe {

/// How attention is computed; results agree to rounding. `automatic` takes the one with fewer operations for each
/// sequence.
enum class AttentionPath { automatic, plain, absorbed };

}  // namespace supernode::moe
