#pragma once
// The machine and the model of the published evaluation, read once a process.

#include "moe/model_shape.hpp"
#include "runtime/emulation/machine/machine.hpp"

namespace supernode::emulation {

inline const Machine& cm() {
  static const Machine machine = load_machine("cloudmatrix384");
  return machine;
}

inline const ModelShape& r1() {
  static const ModelShape model = moe::load_model_shape("deepseek-r1");
  return model;
}

}  // namespace supernode::emulation
