#include "runtime/emulation/operators.hpp"

#include <algorithm>

#include "runtime/core/error.hpp"

namespace supernode::emulation {
namespace {

double memory_rate(const Machine& machine, double share) {
  return machine.die.memory_gbps * 1e9 * machine.die.memory_efficiency * share;
}

}  // namespace

ModelTime gemm_time(const Machine& machine, const Gemm& gemm, CoreShare share) {
  const bool int8 = gemm.operands == ElementType::int8;
  expect(int8 || gemm.operands == ElementType::bf16, "matrix products take int8 or bf16");
  const double peak = (int8 ? machine.die.int8_tops : machine.die.bf16_tflops) * 1e12;
  const auto operand = static_cast<double>(element_bytes(gemm.operands));
  const double rate = memory_rate(machine, share.matrix);
  const double compute =
      2 * gemm.groups * gemm.m * gemm.n * gemm.k / (peak * machine.die.gemm_efficiency * share.matrix);
  // No rows, no product: weights of an expert without tokens are not read.
  const double weights = std::min(1.0, gemm.m) * gemm.k * gemm.n;
  const double reading = gemm.groups * operand * (gemm.m * gemm.k + weights) / rate;
  const double writing = gemm.groups * 2 * gemm.m * gemm.n / rate;
  return {std::max(compute, reading) + machine.die.operand_exposure * std::min(compute, reading) + writing};
}

ModelTime attention_time(const Machine& machine, double flops, double bytes, CoreShare share) {
  const double compute = flops / (machine.die.bf16_tflops * 1e12 * machine.die.attention_efficiency * share.matrix);
  return {std::max(compute, bytes / memory_rate(machine, share.matrix))};
}

ModelTime vector_time(const Machine& machine, double bytes, CoreShare share) {
  return {bytes / (machine.die.memory_gbps * 1e9 * machine.die.vector_efficiency * share.vector)};
}

ModelTime start_time(const Machine& machine, double count) { return {count * machine.die.operator_start_us * 1e-6}; }

}  // namespace supernode::emulation
