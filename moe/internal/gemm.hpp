#pragma once
// Matrix products by oneDNN. Weights are packed once into the layout of the kernels.

#include <cstdint>
#include <memory>
#include <span>

namespace supernode::moe {

/// A weight matrix [n_out, n_in] in a kernel's own layout. Belongs to the Gemm that packed it.
class PackedMatrix {
 public:
  PackedMatrix();
  ~PackedMatrix();
  PackedMatrix(PackedMatrix&&) noexcept;
  PackedMatrix& operator=(PackedMatrix&&) noexcept;

  int n_in() const { return n_in_; }
  int n_out() const { return n_out_; }

 private:
  friend class Gemm;
  struct Impl;
  int n_in_ = 0, n_out_ = 0;
  std::unique_ptr<Impl> impl_;
};

/// oneDNN's engine and the primitives made so far, by shape. One per transformer; not thread-safe.
///
/// A product x W^T is run as a 1x1 convolution over `rows` pixels: unlike oneDNN's matmul before AVX-512 that keeps the
/// weights packed, is as fast at few rows as the memory allows, and gives each row bits that do not depend on how many
/// rows are in the call.
class Gemm {
 public:
  /// @param threads of oneDNN in this process. Ranks are processes, so more than 1 only where cores are to spare.
  explicit Gemm(int threads);
  ~Gemm();
  Gemm(const Gemm&) = delete;
  Gemm& operator=(const Gemm&) = delete;

  /// @param weights [n_out, n_in] row-major
  PackedMatrix pack(std::span<const float> weights, int n_out, int n_in);
  /// y[r, o] = sum_i x[r, i] W[o, i]. x [rows, n_in] and y [rows, n_out] dense; rows 0 allowed.
  void multiply(const PackedMatrix& weights, const float* x, int rows, float* y);

  /// c [m, n] = alpha a [m, k] b^T + beta c, b [n, k]; row strides lda, ldb, ldc. For operands that change at every
  /// step.
  static void multiply_transposed(int m, int n, int k, float alpha, const float* a, std::ptrdiff_t lda, const float* b,
                                  std::ptrdiff_t ldb, float beta, float* c, std::ptrdiff_t ldc);
  /// c [m, n] = a [m, k] b [k, n]
  static void multiply_plain(int m, int n, int k, const float* a, std::ptrdiff_t lda, const float* b,
                             std::ptrdiff_t ldb, float* c, std::ptrdiff_t ldc);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace supernode::moe
