#include "moe/internal/gemm.hpp"

#include <algorithm>
#include <cstdlib>
#include <cstring>
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
/// Elements of a panel of widened weights: 256 KiB, which a second-level cache holds beside the rows.
constexpr int panel_elements = 1 << 16;

int next_piece(int rows) {
  if (rows < exact_rows) return rows;
  return rows > largest_rows ? largest_rows : rows / 8 * 8;
}

int panel_outputs(int n_out, int n_in) { return std::min(n_out, std::max(16, panel_elements / n_in / 16 * 16)); }

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

void narrow(std::span<const float> from, std::uint16_t* to) {
  std::byte* const destination = reinterpret_cast<std::byte*>(to);
  collectives::write_row(Payload::bf16, from, {}, {&destination, 1});
}

void widen(std::span<const std::uint16_t> from, float* to) {
  collectives::read_row(Payload::bf16, reinterpret_cast<const std::byte*>(from.data()), 1, {to, from.size()});
}

}  // namespace

struct PackedMatrix::Impl {
  dnnl::memory weights;                            ///< in the kernel's type; or
  std::vector<std::vector<std::uint16_t>> panels;  ///< bf16 to be widened, each a packed matrix of panel_outputs()
  std::vector<float> scales;                       ///< int8: per output
};

PackedMatrix::PackedMatrix() = default;
PackedMatrix::~PackedMatrix() = default;
PackedMatrix::PackedMatrix(PackedMatrix&&) noexcept = default;
PackedMatrix& PackedMatrix::operator=(PackedMatrix&&) noexcept = default;

std::size_t PackedMatrix::bytes() const {
  if (!impl_) return 0;
  std::size_t sum = impl_->weights ? impl_->weights.get_desc().get_size() : 0;
  for (const auto& panel : impl_->panels) sum += panel.size() * sizeof(std::uint16_t);
  return sum + impl_->scales.size() * sizeof(float);
}

struct Gemm::Impl {
  /// A 1x1 convolution over `rows` pixels. The memory objects are reused; their handles are set at each call.
  struct Product {
    dnnl::convolution_forward primitive;
    dnnl::memory x, y;
    double operations;
  };
  struct Layout {
    dnnl::memory::desc description;
    bool fast;  ///< not oneDNN's reference loops
  };
  /// A call of oneDNN, with a primitive or of sgemm.
  struct Call {
    Product* product = nullptr;
    dnnl_memory_t weights = nullptr;
    char transpose_b = 'N';
    int m = 0, n = 0, k = 0;
    float alpha = 1, beta = 0;
    const void* a = nullptr;
    const float* b = nullptr;
    void* c = nullptr;
    std::ptrdiff_t lda = 0, ldb = 0, ldc = 0;

    double operations() const { return product ? product->operations : 2.0 * m * n * k; }
  };
  using Shape = std::tuple<ComputeType, int, int>;  // n_out, n_in

  dnnl::engine engine{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream{engine};
  std::map<Shape, Layout> layouts;
  std::map<std::tuple<ComputeType, int, int, int>, Product> products;  // n_out, n_in, rows
  std::map<std::pair<int, int>, dnnl::memory> panel_views;             // n_out, n_in
  bool native_bf16 = false;
  bool recording = false;
  std::vector<Call> calls;

  Buffer<std::int8_t> bytes;  ///< quantised rows
  Buffer<float> row_scales;
  Buffer<std::uint16_t> halves;    ///< rows as bf16
  Buffer<float> panel, panel_out;  ///< widened weights, and their results where there are several panels

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
      const bool fast = std::string_view(description.impl_info_str()).find("ref") == std::string_view::npos;
      at = layouts.emplace(Shape{type, n_out, n_in}, Layout{description.weights_desc(), fast}).first;
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

  Product& kernel(ComputeType type, int rows, int n_out, int n_in) {
    auto at = products.find({type, n_out, n_in, rows});
    if (at != products.end()) return at->second;
    return guarded("making a product", [&]() -> Product& {
      const auto description = describe(type, rows, n_out, n_in, layout(type, n_out, n_in).description);
      Product made{dnnl::convolution_forward(description), dnnl::memory(description.src_desc(), engine, nullptr),
                   dnnl::memory(description.dst_desc(), engine, nullptr), 2.0 * rows * n_out * n_in};
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

  /// The widened panel as oneDNN sees it.
  const dnnl::memory& panel_of(int n_out, int n_in) {
    auto at = panel_views.find({n_out, n_in});
    if (at == panel_views.end())
      at = panel_views
               .emplace(std::pair{n_out, n_in},
                        dnnl::memory(layout(ComputeType::f32, n_out, n_in).description, engine, nullptr))
               .first;
    at->second.set_data_handle(panel.data());
    return at->second;
  }

  void run(const Call& call) {
    if (call.product) {
      call.product->x.set_data_handle(const_cast<void*>(call.a));
      call.product->y.set_data_handle(call.c);
      const dnnl_exec_arg_t arguments[] = {{DNNL_ARG_SRC, call.product->x.get()},
                                           {DNNL_ARG_WEIGHTS, call.weights},
                                           {DNNL_ARG_DST, call.product->y.get()}};
      check(dnnl_primitive_execute(call.product->primitive.get(), stream.get(), 3, arguments), "a product");
    } else {
      check(dnnl_sgemm('N', call.transpose_b, call.m, call.n, call.k, call.alpha, static_cast<const float*>(call.a),
                       call.lda, call.b, call.ldb, call.beta, static_cast<float*>(call.c), call.ldc),
            "sgemm");
    }
    if (recording) calls.push_back(call);
  }

  void run(Product& product, const dnnl::memory& weights, const void* x, void* y) {
    Call call;
    call.product = &product;
    call.weights = weights.get();
    call.a = x;
    call.c = y;
    run(call);
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

  void multiply_widened(const PackedMatrix& w, const PackedMatrix::Impl& packed, const float* x, int rows, float* y);
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
  if (type == ComputeType::f32) {
    p.weights = impl_->reorder(type, n_out, n_in, weights.data());
  } else if (type == ComputeType::int8) {
    std::vector<std::byte> bytes(weights.size());
    for (std::size_t o = 0; o < static_cast<std::size_t>(n_out); ++o) {
      const auto row = weights.subspan(o * width, width);
      const collectives::RowScale scale = collectives::row_scale(Payload::int8, row);
      std::byte* const to = bytes.data() + o * width;
      collectives::write_row(Payload::int8, row, scale, {&to, 1});
      p.scales.push_back(scale.scale);
    }
    p.weights = impl_->reorder(type, n_out, n_in, bytes.data());
  } else if (impl_->native_bf16) {
    std::vector<std::uint16_t> halves(weights.size());
    narrow(weights, halves.data());
    p.weights = impl_->reorder(type, n_out, n_in, halves.data());
  } else {
    const int most = panel_outputs(n_out, n_in);
    for (int first = 0; first < n_out; first += most) {
      const int count = std::min(most, n_out - first);
      const dnnl::memory panel = impl_->reorder(ComputeType::f32, count, n_in, weights.data() + product(first, n_in));
      const std::size_t size = panel.get_desc().get_size() / sizeof(float);
      p.panels.emplace_back(size);
      narrow({static_cast<const float*>(panel.get_data_handle()), size}, p.panels.back().data());
    }
  }
  return packed;
}

void Gemm::Impl::multiply_widened(const PackedMatrix& w, const PackedMatrix::Impl& packed, const float* x, int rows,
                                  float* y) {
  const int n_in = w.n_in(), n_out = w.n_out(), most = panel_outputs(n_out, n_in);
  int first_out = 0;
  for (const std::vector<std::uint16_t>& halves_of_panel : packed.panels) {
    const int count = std::min(most, n_out - first_out);
    panel.grow(halves_of_panel.size());
    widen(halves_of_panel, panel.data());
    const dnnl::memory& weights = panel_of(count, n_in);
    by_pieces(rows, [&](int first, int piece) {
      Product& p = kernel(ComputeType::f32, piece, count, n_in);
      const float* from = x + product(first, n_in);
      if (count == n_out) {
        run(p, weights, from, y + product(first, n_out));
        return;
      }
      panel_out.grow(product(largest_rows, most));
      run(p, weights, from, panel_out.data());
      for (int r = 0; r < piece; ++r)
        std::memcpy(y + product(first + r, n_out) + first_out, panel_out.data() + product(r, count),
                    static_cast<std::size_t>(count) * sizeof(float));
    });
    first_out += count;
  }
}

void Gemm::multiply(const PackedMatrix& weights, const float* x, int rows, float* y) {
  Impl& m = *impl_;
  const PackedMatrix::Impl& packed = *weights.impl_;
  const int n_in = weights.n_in_, n_out = weights.n_out_;
  const auto width = static_cast<std::size_t>(n_in);
  if (rows == 0) return;
  if (!packed.panels.empty()) {
    m.multiply_widened(weights, packed, x, rows, y);
  } else if (weights.type_ == ComputeType::f32) {
    Impl::by_pieces(rows, [&](int first, int piece) {
      m.run(m.kernel(ComputeType::f32, piece, n_out, n_in), packed.weights, x + product(first, n_in),
            y + product(first, n_out));
    });
  } else if (weights.type_ == ComputeType::bf16) {
    m.halves.grow(product(largest_rows, n_in));
    Impl::by_pieces(rows, [&](int first, int piece) {
      narrow({x + product(first, n_in), product(piece, n_in)}, m.halves.data());
      m.run(m.kernel(ComputeType::bf16, piece, n_out, n_in), packed.weights, m.halves.data(),
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
    m.run(m.kernel(ComputeType::int8, piece, n_out, n_in), weights.impl_->weights, x + product(first, n_in),
          y + product(first, n_out));
  });
  for (int r = 0; r < rows; ++r)
    dequantise(scales[r], weights.impl_->scales.data(), static_cast<std::size_t>(n_out), y + product(r, n_out));
}

void Gemm::prepare(const PackedMatrix& weights, int rows) {
  Impl& m = *impl_;
  const int n_in = weights.n_in_, n_out = weights.n_out_;
  const bool widened = !weights.impl_->panels.empty();
  const auto kernels = [&](ComputeType type, int outputs) {
    for (int piece = 1; piece <= std::min(rows, largest_rows); piece += piece < exact_rows ? 1 : 8)
      m.kernel(type, piece, outputs, n_in);
  };
  if (widened) {
    const int most = panel_outputs(n_out, n_in), rest = n_out % most;
    kernels(ComputeType::f32, most);
    if (rest > 0) kernels(ComputeType::f32, rest);
    m.panel.grow(weights.impl_->panels.front().size());
    if (most < n_out) m.panel_out.grow(product(largest_rows, most));
    return;
  }
  kernels(weights.type_, n_out);
  if (weights.type_ == ComputeType::bf16) m.halves.grow(product(largest_rows, n_in));
  if (weights.type_ == ComputeType::int8) {
    m.bytes.grow(product(largest_rows, n_in));
    m.row_scales.grow(largest_rows);
  }
}

void Gemm::multiply_transposed(int m, int n, int k, float alpha, const float* a, std::ptrdiff_t lda, const float* b,
                               std::ptrdiff_t ldb, float beta, float* c, std::ptrdiff_t ldc) {
  impl_->run({nullptr, nullptr, 'T', m, n, k, alpha, beta, a, b, c, lda, ldb, ldc});
}

void Gemm::multiply_plain(int m, int n, int k, const float* a, std::ptrdiff_t lda, const float* b, std::ptrdiff_t ldb,
                          float* c, std::ptrdiff_t ldc) {
  impl_->run({nullptr, nullptr, 'N', m, n, k, 1, 0, a, b, c, lda, ldb, ldc});
}

void Gemm::start_recording() {
  impl_->calls.clear();
  impl_->recording = true;
}

void Gemm::stop_recording() { impl_->recording = false; }

double Gemm::replay() {
  expect(!impl_->recording, "Gemm::replay while recording");
  const double start = wall_now().value;
  for (const Impl::Call& call : impl_->calls) impl_->run(call);
  return wall_now().value - start;
}

double Gemm::recorded_operations() const {
  double sum = 0;
  for (const Impl::Call& call : impl_->calls) sum += call.operations();
  return sum;
}

}  // namespace supernode::moe
