#pragma once
// What an operator costs on one die: a roofline with the machine's efficiencies. Pure functions of shape and machine;
// continuous and non-decreasing in every size, zero for nothing. The start-up between dependent operators is a function
// of its own, since fused operators pay it once.

#include "runtime/core/clock.hpp"
#include "runtime/core/element_type.hpp"
#include "runtime/emulation/machine/machine.hpp"

namespace supernode::emulation {

/// The part of a die's cores that a stream owns, each in (0, 1]. Arithmetic and memory traffic both slow down with it:
/// a core moves its own operands, and no core alone fills the memory.
struct CoreShare {
  double matrix = 1;
  double vector = 1;
};

/// `groups` products [m, k] x [k, n]. Sizes are double because expected row counts are not whole.
struct Gemm {
  double groups = 1, m = 0, n = 0, k = 0;
  ElementType operands = ElementType::int8;  ///< int8 or bf16; results are always bf16
};

/// Arithmetic and reading operands overlap in part: the longer of both + operand_exposure x the shorter + writing
/// results, which drain after the last tile.
ModelTime gemm_time(const Machine& machine, const Gemm& gemm, CoreShare share = {});

/// Fused attention in bf16: max(arithmetic, reading the cache).
/// @param flops operations; @param bytes of cache read
ModelTime attention_time(const Machine& machine, double flops, double bytes, CoreShare share = {});

/// An elementwise operator on the vector cores. @param bytes read and written
ModelTime vector_time(const Machine& machine, double bytes, CoreShare share = {});

/// `count` starts of operators that depend on each other.
ModelTime start_time(const Machine& machine, double count = 1);

}  // namespace supernode::emulation
