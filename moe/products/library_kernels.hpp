#pragma once
// oneDNN's kernels for products with packed weights, made once for each shape. Only gemm.cpp includes this.

#include <map>
#include <string>
#include <tuple>

#include <oneapi/dnnl/dnnl.hpp>

#include "moe/compute_type.hpp"
#include "runtime/core/buffer.hpp"

namespace supernode::moe {

/// A product x W^T, see Gemm. Operands are of one type, results f32, or 32-bit integers for int8.
class LibraryKernels {
 public:
  /// Calls are cut so that few primitives serve all row counts: exact below `exact_rows`, then multiples of 8 up to
  /// `largest_rows` and an exact rest below 8.
  static constexpr int exact_rows = 32, largest_rows = 256;

  /// oneDNN's primitive: its matmul where that packs weights, elsewhere a 1x1 convolution over `rows` pixels.
  enum class Form { matmul, convolution };
  /// A primitive for a shape. The memory objects are reused; their handles are set at each call.
  struct Product {
    dnnl::primitive primitive;
    dnnl::memory x, y;
    std::string implementation;  ///< oneDNN's name of it
    int rows;                    ///< of the primitive
    double operations;
  };
  struct Layout {
    Form form;
    dnnl::memory::desc description;
    std::string implementation;  ///< oneDNN's name of what computes every product with these weights
    bool one_primitive;          ///< the same for all numbers of rows, so that a row always gets the same bits
    bool panels;                 ///< the layout of multiply_panels()
  };

  /// @throws EnvironmentError without a CPU engine, as every call when oneDNN fails.
  LibraryKernels();

  /// Whether oneDNN multiplies bf16 with packed weights on this processor.
  bool multiplies_bf16();
  /// How weights [n_out, n_in] are packed.
  const Layout& layout(ComputeType type, int n_out, int n_in);
  /// `plain` [n_out, n_in] as layout() says.
  dnnl::memory pack(ComputeType type, int n_out, int n_in, const void* plain);
  /// Room for such weights.
  dnnl::memory allocate(ComputeType type, int n_out, int n_in);
  /// Weights that lie packed at `weights`, which stays the caller's.
  dnnl::memory place(ComputeType type, int n_out, int n_in, void* weights);
  /// The kernel for up to largest_rows rows; made at the first call for the shape.
  Product& product(ComputeType type, int rows, int n_out, int n_in);
  /// y [rows, n_out] from x [rows, n_in] and weights of product()'s shape.
  void run(Product& product, int rows, dnnl_memory_t weights, const void* x, void* y);
  /// dnnl_sgemm, row-major.
  static void sgemm(char transpose_a, char transpose_b, int m, int n, int k, float alpha, const float* a,
                    std::ptrdiff_t lda, const float* b, std::ptrdiff_t ldb, float beta, float* c, std::ptrdiff_t ldc);

  /// body(first row, rows) for the pieces of a call.
  template <class Body>
  static void by_pieces(int rows, Body&& body) {
    for (int first = 0; first < rows;) {
      const int left = rows - first;
      const int piece = left < exact_rows ? left : left > largest_rows ? largest_rows : left / 8 * 8;
      body(first, piece);
      first += piece;
    }
  }

 private:
  /// Empty where oneDNN has no matmul of these types.
  dnnl::primitive_desc describe(Form form, ComputeType type, int rows, int n_out, int n_in,
                                const dnnl::memory::desc& weights);
  /// Weights [n_out, n_in]: in rows, or as the primitive wants them.
  enum class WeightOrder { rows, of_primitive };
  static dnnl::memory::desc weights_of(Form form, ComputeType type, int n_out, int n_in, WeightOrder order);
  void execute(Product& product, dnnl_memory_t weights, void* x, void* y);

  dnnl::engine engine_;
  dnnl::stream stream_;
  std::map<std::tuple<ComputeType, int, int>, Layout> layouts_;         // n_out, n_in
  std::map<std::tuple<ComputeType, int, int, int>, Product> products_;  // n_out, n_in, rows
  HugePageBuffer<std::byte> padded_x_, padded_y_;                       // of primitives for more rows than there are
};

}  // namespace supernode::moe
