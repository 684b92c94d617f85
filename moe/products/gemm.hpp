#pragma once
// Matrix products: by oneDNN, or where it has no good kernel by our own (panel_product.hpp, latent_products.hpp,
// kept_keys.hpp). Weights are packed once into the layout of the kernels.

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "moe/compute_type.hpp"
#include "moe/products/kept_keys.hpp"
#include "moe/products/latent_products.hpp"

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
  ComputeType type() const { return type_; }
  /// Memory held, with padding, scales and compensation.
  std::size_t bytes() const;
  /// The same memory: bytes() in all, whatever else there is being equal for matrices of one Gemm::format().
  std::vector<std::span<std::byte>> storage();

 private:
  friend class Gemm;
  struct Impl;
  int n_in_ = 0, n_out_ = 0;
  ComputeType type_ = ComputeType::f32;
  std::unique_ptr<Impl> impl_;
};

/// oneDNN's engine and the primitives made so far, by shape. One per transformer; not thread-safe.
///
/// A product x W^T is oneDNN's matmul from AVX-512 with VNNI on, else a 1x1 convolution over `rows` pixels, which
/// unlike matmul there keeps the weights packed (up to few_rows rows: panel_product.hpp's). Each gives a row bits that
/// do not depend on how many rows are in the call.
///
/// Inputs and results are f32 whatever the type of the weights:
///   f32   as they are; weights that are all bf16, as in most published checkpoints, are held as such and multiplied by
///         panel_product.hpp: nothing is lost
///   bf16  weights rounded to bf16. Where oneDNN multiplies packed bf16 (AVX512_BF16, AMX), x is rounded too. Elsewhere
///         x stays f32 and the product is panel_product.hpp's
///   int8  weights as bytes with a scale per output, x as bytes with a scale per row, sums in 32-bit integers
class Gemm {
 public:
  /// @param threads of oneDNN in this process. Ranks are processes, so more than 1 only where cores are to spare.
  explicit Gemm(int threads);
  ~Gemm();
  Gemm(const Gemm&) = delete;
  Gemm& operator=(const Gemm&) = delete;

  /// @param weights [n_out, n_in] row-major, finite
  PackedMatrix pack(std::span<const float> weights, int n_out, int n_in, ComputeType type);
  /// The same in int8, of weights that are rounded already.
  PackedMatrix pack_int8(std::span<const std::int8_t> integers, std::span<const float> scales, int n_out, int n_in);
  /// A matrix of the same shape and format, with the same values, in memory of its own.
  PackedMatrix copy(const PackedMatrix& matrix) const;
  /// How it is packed: the storage() of a matrix means the same to whoever packs in the same format.
  std::string format(const PackedMatrix& matrix) const;
  /// y[r, o] = sum_i x[r, i] W[o, i]. x [rows, n_in] and y [rows, n_out] dense; rows 0 allowed.
  /// @param next the matrix of the product after this one, if known: where that pays, it is fetched meanwhile
  void multiply(const PackedMatrix& weights, const float* x, int rows, float* y, const PackedMatrix* next = nullptr);
  /// The same for rows that are quantised already: row r is scales[r] * x[r, :]. `weights` is int8.
  void multiply_quantised(const PackedMatrix& weights, const std::int8_t* x, const float* scales, int rows, float* y);
  /// Makes the kernels and buffers that products of up to `rows` rows with `weights` need, so that none of them is made
  /// later.
  void prepare(const PackedMatrix& weights, int rows);

  /// c [m, n] = alpha a [m, k] b^T + beta c, b [n, k]; row strides lda, ldb, ldc. For operands that change at every
  /// step.
  void multiply_transposed(int m, int n, int k, float alpha, const float* a, std::ptrdiff_t lda, const float* b,
                           std::ptrdiff_t ldb, float beta, float* c, std::ptrdiff_t ldc);
  /// c [m, n] = a [m, k] b [k, n]
  void multiply_plain(int m, int n, int k, const float* a, std::ptrdiff_t lda, const float* b, std::ptrdiff_t ldb,
                      float* c, std::ptrdiff_t ldc);

  /// latent_scores() and latent_context().
  void score_latents(const LatentProduct& product, const float* queries, float* scores);
  void attend_latents(const LatentProduct& product, const float* scores, float* context);
  /// attend_kept().
  void attend_kept(const KeptProduct& product, float scale, const float* queries, float* scratch, float* out);

  /// From here on every product is noted; forgets what was noted before.
  void start_recording();
  void stop_recording();
  /// Repeats the noted products on the same memory, one after the other and nothing in between: what the products alone
  /// cost. Overwrites their results; their operands must still be there. Returns seconds.
  double replay();
  /// The same with oneDNN in place of every product of our own: its kernels for f32, on weights of the same shapes in
  /// f32, and its sgemm. Where the weights would need more than 512 MB, they share that.
  double replay_by_library();
  /// Multiplications and additions of the noted products, by implementation: oneDNN's name of it, "sgemm", or
  /// "own:...".
  std::map<std::string, double> recorded_operations() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace supernode::moe
