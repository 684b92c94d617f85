#include "moe/internal/gemm.hpp"

#include <map>
#include <tuple>
#include <utility>

#include <omp.h>
#include <oneapi/dnnl/dnnl.hpp>

#include "runtime/core/error.hpp"

namespace supernode::moe {
namespace {

using Format = dnnl::memory::format_tag;
constexpr auto f32 = dnnl::memory::data_type::f32;

/// Rows of the primitive that chooses the packed layout; the others are made for that layout.
constexpr int layout_rows = 64;
/// Calls are cut so that few primitives serve all row counts: exact below `exact_rows`, then multiples of 8 up to
/// `largest_rows` and an exact rest below 8.
constexpr int exact_rows = 32, largest_rows = 256;

int next_piece(int rows) {
  if (rows < exact_rows) return rows;
  return rows > largest_rows ? largest_rows : rows / 8 * 8;
}

void check(dnnl_status_t status, const char* what) {
  if (status != dnnl_success)
    throw EnvironmentError(std::string("oneDNN: ") + what + " failed with status " + std::to_string(status));
}

}  // namespace

struct PackedMatrix::Impl {
  dnnl::memory weights;
};

PackedMatrix::PackedMatrix() = default;
PackedMatrix::~PackedMatrix() = default;
PackedMatrix::PackedMatrix(PackedMatrix&&) noexcept = default;
PackedMatrix& PackedMatrix::operator=(PackedMatrix&&) noexcept = default;

struct Gemm::Impl {
  /// A 1x1 convolution over `rows` pixels. The memory objects are reused; their handles are set at each call.
  struct Product {
    dnnl::convolution_forward primitive;
    dnnl::memory x, y;
  };
  using Shape = std::pair<int, int>;  // n_out, n_in

  dnnl::engine engine{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream{engine};
  std::map<Shape, dnnl::memory::desc> layouts;
  std::map<std::tuple<int, int, int>, Product> products;  // n_out, n_in, rows

  dnnl::convolution_forward::primitive_desc describe(int rows, int n_out, int n_in, const dnnl::memory::desc& weights) {
    const dnnl::memory::desc x({1, n_in, 1, rows}, f32, Format::nhwc), y({1, n_out, 1, rows}, f32, Format::nhwc);
    return {{dnnl::prop_kind::forward_inference,
             dnnl::algorithm::convolution_direct,
             x,
             weights,
             y,
             {1, 1},
             {0, 0},
             {0, 0}},
            engine};
  }

  const dnnl::memory::desc& layout(int n_out, int n_in) {
    auto at = layouts.find({n_out, n_in});
    if (at == layouts.end()) {
      const dnnl::memory::desc any({n_out, n_in, 1, 1}, f32, Format::any);
      at = layouts.emplace(Shape{n_out, n_in}, describe(layout_rows, n_out, n_in, any).weights_desc()).first;
    }
    return at->second;
  }

  Product& product(int rows, int n_out, int n_in) {
    auto at = products.find({n_out, n_in, rows});
    if (at == products.end()) {
      const auto description = describe(rows, n_out, n_in, layout(n_out, n_in));
      Product made{dnnl::convolution_forward(description), dnnl::memory(description.src_desc(), engine, nullptr),
                   dnnl::memory(description.dst_desc(), engine, nullptr)};
      at = products.emplace(std::tuple{n_out, n_in, rows}, std::move(made)).first;
    }
    return at->second;
  }
};

Gemm::Gemm(int threads) {
  omp_set_num_threads(threads);
  try {
    impl_ = std::make_unique<Impl>();
  } catch (const dnnl::error& error) {
    throw EnvironmentError(std::string("oneDNN: no CPU engine: ") + error.what());
  }
}

Gemm::~Gemm() = default;

PackedMatrix Gemm::pack(std::span<const float> weights, int n_out, int n_in) {
  expect(weights.size() == static_cast<std::size_t>(n_out) * static_cast<std::size_t>(n_in), "Gemm::pack: size");
  PackedMatrix packed;
  packed.n_out_ = n_out;
  packed.n_in_ = n_in;
  try {
    dnnl::memory plain({{n_out, n_in, 1, 1}, f32, Format::oihw}, impl_->engine, const_cast<float*>(weights.data()));
    packed.impl_ = std::make_unique<PackedMatrix::Impl>();
    packed.impl_->weights = dnnl::memory(impl_->layout(n_out, n_in), impl_->engine);
    dnnl::reorder(plain, packed.impl_->weights).execute(impl_->stream, plain, packed.impl_->weights);
    impl_->stream.wait();
  } catch (const dnnl::error& error) {
    throw EnvironmentError(std::string("oneDNN: packing a matrix: ") + error.what());
  }
  return packed;
}

void Gemm::multiply(const PackedMatrix& weights, const float* x, int rows, float* y) {
  const int n_in = weights.n_in_, n_out = weights.n_out_;
  while (rows > 0) {
    const int piece = next_piece(rows);
    try {
      Impl::Product& product = impl_->product(piece, n_out, n_in);
      product.x.set_data_handle(const_cast<float*>(x));
      product.y.set_data_handle(y);
      const dnnl_exec_arg_t arguments[] = {{DNNL_ARG_SRC, product.x.get()},
                                           {DNNL_ARG_WEIGHTS, weights.impl_->weights.get()},
                                           {DNNL_ARG_DST, product.y.get()}};
      check(dnnl_primitive_execute(product.primitive.get(), impl_->stream.get(), 3, arguments), "a product");
    } catch (const dnnl::error& error) {
      throw EnvironmentError(std::string("oneDNN: making a product: ") + error.what());
    }
    x += static_cast<std::ptrdiff_t>(piece) * n_in;
    y += static_cast<std::ptrdiff_t>(piece) * n_out;
    rows -= piece;
  }
}

void Gemm::multiply_transposed(int m, int n, int k, float alpha, const float* a, std::ptrdiff_t lda, const float* b,
                               std::ptrdiff_t ldb, float beta, float* c, std::ptrdiff_t ldc) {
  check(dnnl_sgemm('N', 'T', m, n, k, alpha, a, lda, b, ldb, beta, c, ldc), "sgemm");
}

void Gemm::multiply_plain(int m, int n, int k, const float* a, std::ptrdiff_t lda, const float* b, std::ptrdiff_t ldb,
                          float* c, std::ptrdiff_t ldc) {
  check(dnnl_sgemm('N', 'N', m, n, k, 1, a, lda, b, ldb, 0, c, ldc), "sgemm");
}

}  // namespace supernode::moe
