#include "moe/internal/gemm.hpp"

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include <omp.h>
#include <oneapi/dnnl/dnnl.hpp>

#include "collectives/quantise.hpp"
#include "moe/buffer.hpp"
#include "moe/internal/kernels.hpp"
#include "moe/internal/panel_product.hpp"
#include "runtime/core/clock.hpp"
#include "runtime/core/error.hpp"

namespace supernode::moe {
namespace {

using collectives::Payload;
using Format = dnnl::memory::format_tag;
using DataType = dnnl::memory::data_type;

/// Rows of the primitive that chooses the packed layout; the others are made for that layout.
constexpr int layout_rows = 64;
/// Calls are cut so that few primitives serve all row counts: exact below `exact_rows`, then multiples of 8 up to
/// `largest_rows` and an exact rest below 8.
constexpr int exact_rows = 32, largest_rows = 256;

int next_piece(int rows) {
  if (rows < exact_rows) return rows;
  return rows > largest_rows ? largest_rows : rows / 8 * 8;
}

std::size_t product(int a, int b) { return static_cast<std::size_t>(a) * static_cast<std::size_t>(b); }

void check(dnnl_status_t status, const char* what) {
  if (status != dnnl_success)
    throw EnvironmentError(std::string("oneDNN: ") + what + " failed with status " + std::to_string(status));
}

/// Runs `make`, which builds objects of oneDNN.
template <class Make>
decltype(auto) guarded(const char* what, Make&& make) {
  try {
    return make();
  } catch (const dnnl::error& error) {
    throw EnvironmentError(std::string("oneDNN: ") + what + ": " + error.what());
  }
}

/// The types of a kernel's operands.
struct Types {
  DataType x, weights, y;
};
/// In the order of ComputeType.
constexpr Types types_of[] = {{DataType::f32, DataType::f32, DataType::f32},
                              {DataType::bf16, DataType::bf16, DataType::f32},
                              {DataType::s8, DataType::s8, DataType::s32}};

/// Whether rounding to bf16 loses nothing.
bool is_bf16(std::span<const float> values) {
  return std::all_of(values.begin(), values.end(),
                     [](float value) { return (std::bit_cast<std::uint32_t>(value) & 0xffffu) == 0; });
}

void narrow(std::span<const float> from, std::uint16_t* to) {
  std::byte* const destination = reinterpret_cast<std::byte*>(to);
  collectives::write_row(Payload::bf16, from, {}, {&destination, 1});
}

}  // namespace

struct PackedMatrix::Impl {
  dnnl::memory weights;           ///< in the kernel's type; or
  HalfMatrix halves;              ///< bf16, and f32 that is bf16, where oneDNN does not multiply bf16
  const float* panels = nullptr;  ///< f32: `weights`, if their layout is that of multiply_panels()
  std::vector<float> scales;      ///< int8: per output
};

PackedMatrix::PackedMatrix() = default;
PackedMatrix::~PackedMatrix() = default;
PackedMatrix::PackedMatrix(PackedMatrix&&) noexcept = default;
PackedMatrix& PackedMatrix::operator=(PackedMatrix&&) noexcept = default;

std::size_t PackedMatrix::bytes() const {
  if (!impl_) return 0;
  std::size_t sum = impl_->weights ? impl_->weights.get_desc().get_size() : 0;
  return sum + impl_->halves.bytes() + impl_->scales.size() * sizeof(float);
}

struct Gemm::Impl {
  /// A 1x1 convolution over `rows` pixels. The memory objects are reused; their handles are set at each call.
  struct Product {
    dnnl::convolution_forward primitive;
    dnnl::memory x, y;
    std::string implementation;
    int rows;  ///< of the primitive: at least those that it is for
    double operations;
  };
  struct Layout {
    dnnl::memory::desc description;
    bool fast;
    bool panels;  ///< the layout of multiply_panels()
  };
  /// A product that was computed, to be computed again.
  struct Call {
    std::function<void()> repeat;
    double operations;
    std::string implementation;
  };
  using Shape = std::tuple<ComputeType, int, int>;  // n_out, n_in

  dnnl::engine engine{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream{engine};
  std::map<Shape, Layout> layouts;
  std::map<std::tuple<ComputeType, int, int, int>, Product> products;  // n_out, n_in, rows
  bool native_bf16 = false;
  bool recording = false;
  std::vector<Call> calls;

  Buffer<std::int8_t> bytes;  ///< quantised rows
  Buffer<float> row_scales;
  Buffer<std::uint16_t> halves;          ///< rows as bf16
  Buffer<std::byte> padded_x, padded_y;  ///< of primitives for more rows than there are

  dnnl::convolution_forward::primitive_desc describe(ComputeType type, int rows, int n_out, int n_in,
                                                     const dnnl::memory::desc& weights) {
    const Types types = types_of[static_cast<int>(type)];
    const dnnl::memory::desc x({1, n_in, 1, rows}, types.x, Format::nhwc),
        y({1, n_out, 1, rows}, types.y, Format::nhwc);
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

  const Layout& layout(ComputeType type, int n_out, int n_in) {
    auto at = layouts.find({type, n_out, n_in});
    if (at == layouts.end()) {
      const dnnl::memory::desc any({n_out, n_in, 1, 1}, types_of[static_cast<int>(type)].weights, Format::any);
      const auto description = describe(type, layout_rows, n_out, n_in, any);
      const dnnl::memory::desc panels({n_out, n_in, 1, 1}, DataType::f32, Format::OIhw8i8o);
      at = layouts
               .emplace(Shape{type, n_out, n_in},
                        Layout{description.weights_desc(), is_fast(description), description.weights_desc() == panels})
               .first;
    }
    return at->second;
  }

  /// Whether oneDNN multiplies bf16 on this processor otherwise than in its reference loops.
  bool multiplies_bf16() {
    try {
      return layout(ComputeType::bf16, 64, 64).fast;
    } catch (const dnnl::error&) {
      return false;
    }
  }

  /// Not oneDNN's reference loops, which are a hundred times slower than its kernels.
  static bool is_fast(const dnnl::convolution_forward::primitive_desc& description) {
    return std::string_view(description.impl_info_str()).find("ref") == std::string_view::npos;
  }

  Product& kernel(ComputeType type, int rows, int n_out, int n_in) {
    auto at = products.find({type, n_out, n_in, rows});
    if (at != products.end()) return at->second;
    return guarded("making a product", [&]() -> Product& {
      const dnnl::memory::desc& weights = layout(type, n_out, n_in).description;
      auto description = describe(type, rows, n_out, n_in, weights);
      int computed = rows;
      // For some numbers of rows there may be no kernel that takes the layout, but for more rows there is.
      for (int more = 8; more <= largest_rows && !is_fast(description); more *= 2) {
        if (more <= rows) continue;
        const auto padded = describe(type, more, n_out, n_in, weights);
        if (!is_fast(padded)) continue;
        description = padded;
        computed = more;
        padded_x.grow(description.src_desc().get_size());
        padded_y.grow(description.dst_desc().get_size());
        std::memset(padded_x.data(), 0, padded_x.size());
      }
      Product made{dnnl::convolution_forward(description),
                   dnnl::memory(description.src_desc(), engine, nullptr),
                   dnnl::memory(description.dst_desc(), engine, nullptr),
                   description.impl_info_str(),
                   computed,
                   2.0 * rows * n_out * n_in};
      return products.emplace(std::tuple{type, n_out, n_in, rows}, std::move(made)).first->second;
    });
  }

  /// `plain` [n_out, n_in] in the order of the kernels.
  dnnl::memory reorder(ComputeType type, int n_out, int n_in, const void* plain) {
    return guarded("packing a matrix", [&] {
      dnnl::memory from({{n_out, n_in, 1, 1}, types_of[static_cast<int>(type)].weights, Format::oihw}, engine,
                        const_cast<void*>(plain));
      dnnl::memory to(layout(type, n_out, n_in).description, engine);
      dnnl::reorder(from, to).execute(stream, from, to);
      stream.wait();
      return to;
    });
  }

  /// Computes a product by `compute()`, and notes it.
  template <class Compute>
  void run(double operations, const char* implementation, Compute&& compute) {
    compute();
    if (recording) calls.push_back({compute, operations, implementation});
  }

  void run(Product& product, int rows, const dnnl::memory& weights, const void* x, void* y) {
    run(product.operations, product.implementation.c_str(), [this, &product, rows, w = weights.get(), x, y] {
      if (product.rows == rows) {
        execute(product, w, const_cast<void*>(x), y);
        return;
      }
      const auto part = [&](const dnnl::memory& memory) {
        return memory.get_desc().get_size() / static_cast<std::size_t>(product.rows) * static_cast<std::size_t>(rows);
      };
      std::memcpy(padded_x.data(), x, part(product.x));
      execute(product, w, padded_x.data(), padded_y.data());
      std::memcpy(y, padded_y.data(), part(product.y));
    });
  }

  void execute(Product& product, dnnl_memory_t weights, void* x, void* y) {
    product.x.set_data_handle(x);
    product.y.set_data_handle(y);
    const dnnl_exec_arg_t arguments[] = {
        {DNNL_ARG_SRC, product.x.get()}, {DNNL_ARG_WEIGHTS, weights}, {DNNL_ARG_DST, product.y.get()}};
    check(dnnl_primitive_execute(product.primitive.get(), stream.get(), 3, arguments), "a product");
  }

  void sgemm(char transpose_b, int m, int n, int k, float alpha, const float* a, std::ptrdiff_t lda, const float* b,
             std::ptrdiff_t ldb, float beta, float* c, std::ptrdiff_t ldc) {
    run(2.0 * m * n * k, "sgemm",
        [=] { check(dnnl_sgemm('N', transpose_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc), "sgemm"); });
  }

  /// body(first row, rows) for the pieces of a call.
  template <class Body>
  static void by_pieces(int rows, Body&& body) {
    for (int first = 0; first < rows;) {
      const int piece = next_piece(rows - first);
      body(first, piece);
      first += piece;
    }
  }
};

namespace {

/// oneDNN 2.6 has fast kernels for the packed layouts chosen here on AVX2. On AVX-512 and AMX the layout chosen for one
/// row count sends others to its reference loops, a hundred times slower and with bits that depend on the row count. So
/// AVX2 is the limit unless the user sets one.
void limit_instruction_set() {
  if (std::getenv("DNNL_MAX_CPU_ISA") == nullptr && std::getenv("ONEDNN_MAX_CPU_ISA") == nullptr)
    static_cast<void>(dnnl_set_max_cpu_isa(dnnl_cpu_isa_avx2));
}

}  // namespace

Gemm::Gemm(int threads) {
  limit_instruction_set();
  omp_set_num_threads(threads);
  impl_ = guarded("no CPU engine", [] { return std::make_unique<Impl>(); });
  impl_->native_bf16 = impl_->multiplies_bf16();
}

Gemm::~Gemm() = default;

PackedMatrix Gemm::pack(std::span<const float> weights, int n_out, int n_in, ComputeType type) {
  expect(weights.size() == product(n_out, n_in), "Gemm::pack: size");
  PackedMatrix packed;
  packed.n_out_ = n_out;
  packed.n_in_ = n_in;
  packed.type_ = type;
  packed.impl_ = std::make_unique<PackedMatrix::Impl>();
  PackedMatrix::Impl& p = *packed.impl_;
  const auto width = static_cast<std::size_t>(n_in);
  const bool halves = type == ComputeType::bf16 || (type == ComputeType::f32 && is_bf16(weights));
  if (halves && !impl_->native_bf16) {
    p.halves = HalfMatrix(weights, n_out, n_in);
  } else if (type == ComputeType::f32) {
    p.weights = impl_->reorder(type, n_out, n_in, weights.data());
    if (impl_->layout(type, n_out, n_in).panels) p.panels = static_cast<const float*>(p.weights.get_data_handle());
  } else if (type == ComputeType::int8) {
    std::vector<std::int8_t> integers(weights.size());
    std::vector<float> scales;
    for (std::size_t o = 0; o < static_cast<std::size_t>(n_out); ++o) {
      const auto row = weights.subspan(o * width, width);
      const collectives::RowScale scale = collectives::row_scale(Payload::int8, row);
      std::byte* const to = reinterpret_cast<std::byte*>(integers.data()) + o * width;
      collectives::write_row(Payload::int8, row, scale, {&to, 1});
      scales.push_back(scale.scale);
    }
    return pack_int8(integers, scales, n_out, n_in);
  } else {
    std::vector<std::uint16_t> narrowed(weights.size());
    narrow(weights, narrowed.data());
    p.weights = impl_->reorder(type, n_out, n_in, narrowed.data());
  }
  return packed;
}

PackedMatrix Gemm::pack_int8(std::span<const std::int8_t> integers, std::span<const float> scales, int n_out,
                             int n_in) {
  expect(integers.size() == product(n_out, n_in) && scales.size() == static_cast<std::size_t>(n_out),
         "Gemm::pack_int8: size");
  PackedMatrix packed;
  packed.n_out_ = n_out;
  packed.n_in_ = n_in;
  packed.type_ = ComputeType::int8;
  packed.impl_ = std::make_unique<PackedMatrix::Impl>();
  packed.impl_->weights = impl_->reorder(ComputeType::int8, n_out, n_in, integers.data());
  packed.impl_->scales.assign(scales.begin(), scales.end());
  return packed;
}

void Gemm::multiply(const PackedMatrix& weights, const float* x, int rows, float* y) {
  Impl& m = *impl_;
  const PackedMatrix::Impl& packed = *weights.impl_;
  const int n_in = weights.n_in_, n_out = weights.n_out_;
  const auto width = static_cast<std::size_t>(n_in);
  if (rows == 0) return;
  if (!packed.halves.empty()) {
    m.run(2.0 * rows * n_out * n_in, "own:bf16",
          [&halves = packed.halves, x, rows, y] { halves.multiply(x, rows, y); });
  } else if (packed.panels && rows <= few_rows) {
    m.run(2.0 * rows * n_out * n_in, "own:f32_few_rows",
          [=, panels = packed.panels] { multiply_panels(panels, n_out, n_in, x, rows, y); });
  } else if (weights.type_ == ComputeType::f32) {
    Impl::by_pieces(rows, [&](int first, int piece) {
      m.run(m.kernel(ComputeType::f32, piece, n_out, n_in), piece, packed.weights, x + product(first, n_in),
            y + product(first, n_out));
    });
  } else if (weights.type_ == ComputeType::bf16) {
    m.halves.grow(product(largest_rows, n_in));
    Impl::by_pieces(rows, [&](int first, int piece) {
      narrow({x + product(first, n_in), product(piece, n_in)}, m.halves.data());
      m.run(m.kernel(ComputeType::bf16, piece, n_out, n_in), piece, packed.weights, m.halves.data(),
            y + product(first, n_out));
    });
  } else {
    m.bytes.grow(product(largest_rows, n_in));
    m.row_scales.grow(largest_rows);
    Impl::by_pieces(rows, [&](int first, int piece) {
      for (int r = 0; r < piece; ++r) {
        const std::span row(x + product(first + r, n_in), width);
        const collectives::RowScale scale = collectives::row_scale(Payload::int8, row);
        std::byte* const to = reinterpret_cast<std::byte*>(m.bytes.data()) + product(r, n_in);
        collectives::write_row(Payload::int8, row, scale, {&to, 1});
        m.row_scales[static_cast<std::size_t>(r)] = scale.scale;
      }
      multiply_quantised(weights, m.bytes.data(), m.row_scales.data(), piece, y + product(first, n_out));
    });
  }
}

void Gemm::multiply_quantised(const PackedMatrix& weights, const std::int8_t* x, const float* scales, int rows,
                              float* y) {
  expect(weights.type_ == ComputeType::int8, "Gemm::multiply_quantised: weights are not int8");
  Impl& m = *impl_;
  const int n_in = weights.n_in_, n_out = weights.n_out_;
  // The integers are written where the result will be, and become it.
  Impl::by_pieces(rows, [&](int first, int piece) {
    m.run(m.kernel(ComputeType::int8, piece, n_out, n_in), piece, weights.impl_->weights, x + product(first, n_in),
          y + product(first, n_out));
  });
  for (int r = 0; r < rows; ++r)
    dequantise(scales[r], weights.impl_->scales.data(), static_cast<std::size_t>(n_out), y + product(r, n_out));
}

void Gemm::prepare(const PackedMatrix& weights, int rows) {
  Impl& m = *impl_;
  const int n_in = weights.n_in_, n_out = weights.n_out_;
  if (!weights.impl_->halves.empty()) return;
  for (int piece = 1; piece <= std::min(rows, largest_rows); piece += piece < exact_rows ? 1 : 8)
    m.kernel(weights.type_, piece, n_out, n_in);
  if (weights.type_ == ComputeType::bf16) m.halves.grow(product(largest_rows, n_in));
  if (weights.type_ == ComputeType::int8) {
    m.bytes.grow(product(largest_rows, n_in));
    m.row_scales.grow(largest_rows);
  }
}

void Gemm::multiply_transposed(int m, int n, int k, float alpha, const float* a, std::ptrdiff_t lda, const float* b,
                               std::ptrdiff_t ldb, float beta, float* c, std::ptrdiff_t ldc) {
  impl_->sgemm('T', m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

void Gemm::multiply_plain(int m, int n, int k, const float* a, std::ptrdiff_t lda, const float* b, std::ptrdiff_t ldb,
                          float* c, std::ptrdiff_t ldc) {
  impl_->sgemm('N', m, n, k, 1, a, lda, b, ldb, 0, c, ldc);
}

void Gemm::score_latents(const LatentProduct& product, const float* queries, float* scores) {
  impl_->run(product.score_operations(), "own:latents", [=] { latent_scores(product, queries, scores); });
}

void Gemm::attend_latents(const LatentProduct& product, const float* scores, float* context) {
  impl_->run(product.context_operations(), "own:latents", [=] { latent_context(product, scores, context); });
}

void Gemm::start_recording() {
  impl_->calls.clear();
  impl_->recording = true;
}

void Gemm::stop_recording() { impl_->recording = false; }

double Gemm::replay() {
  expect(!impl_->recording, "Gemm::replay while recording");
  const double start = wall_now().value;
  for (const Impl::Call& call : impl_->calls) call.repeat();
  return wall_now().value - start;
}

std::map<std::string, double> Gemm::recorded_operations() const {
  std::map<std::string, double> sums;
  for (const Impl::Call& call : impl_->calls) sums[call.implementation] += call.operations;
  return sums;
}

}  // namespace supernode::moe
