#pragma once
// Products that oneDNN has no good kernel for on AVX2. Highway, run-time dispatch.
//
//   a few rows in f32   a call of oneDNN costs a microsecond, and its kernels do not overlap reading weights from
//                       memory with multiplying. These read the weights as oneDNN packed them
//   bf16 weights        oneDNN packs bf16 from AVX512_BF16 on. These read the weights as bf16, half the bytes of f32,
//                       and widen them in registers; rows and sums are f32
//
// Every result is one chain of fused multiply-adds over the inputs in order, as in oneDNN's kernels for f32 on AVX2:
// the bits do not depend on how many rows are in a call, nor on which of the two computes it.

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace supernode::moe {

/// Rows up to which multiply_panels() is not slower than oneDNN.
constexpr int few_rows = 4;

/// y[r, o] = sum_i x[r, i] W[o, i]; x [rows, n_in], y [rows, n_out], dense; rows <= few_rows.
/// @param panels W in oneDNN's layout OIhw8i8o: for each 8 outputs [n_in, 8], n_out and n_in padded to multiples of 8
void multiply_panels(const float* panels, int n_out, int n_in, const float* x, int rows, float* y);

/// A weight matrix [n_out, n_in], rounded to bf16: panels of 16 outputs, each [n_in, 8] words that hold output j in the
/// low and output j + 8 in the high half. Outputs beyond n_out are zeros.
class HalfMatrix {
 public:
  HalfMatrix() = default;
  /// @param weights [n_out, n_in] row-major
  HalfMatrix(std::span<const float> weights, int n_out, int n_in);

  bool empty() const { return words_.empty(); }
  std::size_t bytes() const { return words_.size() * sizeof(std::uint32_t); }
  std::span<std::uint32_t> words() { return words_; }
  /// y[r, o] = sum_i x[r, i] W[o, i]; x [rows, n_in], y [rows, n_out], dense; any number of rows.
  /// @param next what will be multiplied next, if known: up to two rows ask for its first words meanwhile. Most of a
  /// small model's weights come from the third-level cache, which is far from the core.
  void multiply(const float* x, int rows, float* y, const HalfMatrix* next = nullptr) const;

 private:
  int n_out_ = 0, n_in_ = 0;
  std::vector<std::uint32_t> words_;
};

}  // namespace supernode::moe
