#pragma once
// The name of an instance of a deployment.

#include <compare>
#include <string>

#include <fmt/format.h>

#include "runtime/emulation/step_time.hpp"

namespace supernode::serving {

/// A prefill or decode instance; each stage counts its own from 0.
struct InstanceId {
  emulation::Stage stage = emulation::Stage::prefill;
  int index = 0;
  friend auto operator<=>(const InstanceId&, const InstanceId&) = default;
};

inline const char* name_of(emulation::Stage stage) { return stage == emulation::Stage::decode ? "decode" : "prefill"; }
/// "decode 0"
inline std::string to_string(const InstanceId& instance) {
  return fmt::format("{} {}", name_of(instance.stage), instance.index);
}

}  // namespace supernode::serving
