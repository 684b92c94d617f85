#include "moe/products/gemm.hpp"

#include <algorithm>
#include <cstring>
#include <functional>
#include <map>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <omp.h>

#include "moe/products/bf16.hpp"
#include "moe/products/kernels.hpp"
#include "moe/products/library_kernels.hpp"
#include "moe/products/panel_product.hpp"
#include "runtime/core/buffer.hpp"
#include "runtime/core/clock.hpp"
#include "runtime/core/error.hpp"
#include "runtime/core/quantise.hpp"

namespace supernode::moe {
namespace {

constexpr int largest_rows = LibraryKernels::largest_rows;

}  // namespace

struct PackedMatrix::Impl {
  dnnl::memory weights;           ///< in the kernel's type; or
  HalfMatrix halves;              ///< f32 that is bf16, and bf16 where oneDNN does not multiply it
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

std::vector<std::span<std::byte>> PackedMatrix::storage() {
  std::vector<std::span<std::byte>> parts;
  if (!impl_) return parts;
  if (impl_->weights)
    parts.emplace_back(static_cast<std::byte*>(impl_->weights.get_data_handle()), impl_->weights.get_desc().get_size());
  if (!impl_->halves.empty()) parts.push_back(std::as_writable_bytes(impl_->halves.words()));
  if (!impl_->scales.empty()) parts.push_back(std::as_writable_bytes(std::span(impl_->scales)));
  return parts;
}

struct Gemm::Impl {
  using Action = std::function<void()>;
  /// A product that was computed, to be computed again.
  struct Call {
    Action repeat;
    std::function<Action()> by_library;  ///< makes the same by oneDNN; empty: it is
    double operations;
    std::string implementation;
  };

  LibraryKernels kernels;
  const bool native_bf16 = kernels.multiplies_bf16();
  bool recording = false;
  std::vector<Call> calls;

  HugePageBuffer<std::int8_t> bytes;  ///< quantised rows
  HugePageBuffer<float> row_scales;
  HugePageBuffer<std::uint16_t> halves;  ///< rows as bf16

  // Weights for oneDNN's products where the model's own are in a form that it does not take: only their time counts, so
  // values do not matter, but each matrix has its place, as far as there is room.
  static constexpr std::size_t stand_in_bytes = std::size_t{512} << 20;
  HugePageBuffer<std::byte> stand_ins;
  std::size_t stand_ins_used = 0;
  std::map<const void*, dnnl::memory> stand_in_of;

  /// f32 weights [n_out, n_in] as oneDNN packs them, in the place of `matrix`.
  dnnl::memory stand_in(const void* matrix, int n_out, int n_in) {
    const auto at = stand_in_of.find(matrix);
    if (at != stand_in_of.end()) return at->second;
    if (stand_ins.size() == 0) {
      stand_ins = HugePageBuffer<std::byte>(stand_in_bytes);
      std::fill_n(stand_ins.data(), stand_in_bytes, std::byte{0});
    }
    const std::size_t size = (kernels.layout(ComputeType::f32, n_out, n_in).description.get_size() + 63) / 64 * 64;
    if (stand_ins_used + size > stand_in_bytes) stand_ins_used = 0;
    expect(size <= stand_in_bytes, "a matrix is too large to be timed");
    dnnl::memory memory = kernels.place(ComputeType::f32, n_out, n_in, stand_ins.data() + stand_ins_used);
    stand_ins_used += size;
    return stand_in_of.emplace(matrix, std::move(memory)).first->second;
  }

  /// Computes a product by `compute()`, and notes it.
  template <class Compute>
  void run(double operations, const char* implementation, Compute&& compute) {
    compute();
    if (recording) calls.push_back({compute, {}, operations, implementation});
  }
  /// The same for a product of our own, with what makes oneDNN's in its place.
  template <class Compute, class MakeLibrary>
  void run_own(double operations, const char* implementation, Compute&& compute, MakeLibrary&& by_library) {
    compute();
    if (recording) calls.push_back({compute, by_library, operations, implementation});
  }

  void run(LibraryKernels::Product& product, int rows, const dnnl::memory& weights, const void* x, void* y) {
    run(product.operations, product.implementation.c_str(),
        [this, &product, rows, w = weights.get(), x, y] { kernels.run(product, rows, w, x, y); });
  }

  void sgemm(char transpose_b, int m, int n, int k, float alpha, const float* a, std::ptrdiff_t lda, const float* b,
             std::ptrdiff_t ldb, float beta, float* c, std::ptrdiff_t ldc) {
    run(2.0 * m * n * k, "sgemm",
        [=] { LibraryKernels::sgemm('N', transpose_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc); });
  }

  /// oneDNN's product with weights in f32 or bf16.
  Action library_product(const PackedMatrix::Impl& packed, int n_out, int n_in, const float* x, int rows, float* y) {
    const dnnl::memory weights = packed.weights ? packed.weights : stand_in(&packed, n_out, n_in);
    std::vector<Action> pieces;
    LibraryKernels::by_pieces(rows, [&](int first, int piece) {
      LibraryKernels::Product& kernel = kernels.product(ComputeType::f32, piece, n_out, n_in);
      pieces.push_back([this, &kernel, piece, weights, from = x + product(first, n_in),
                        to = y + product(first, n_out)] { kernels.run(kernel, piece, weights.get(), from, to); });
    });
    return [pieces = std::move(pieces)] {
      for (const Action& piece : pieces) piece();
    };
  }
};

Gemm::Gemm(int threads) {
  omp_set_num_threads(threads);
  impl_ = std::make_unique<Impl>();
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
  if (type == ComputeType::f32 ? is_bf16(weights) : type == ComputeType::bf16 && !impl_->native_bf16) {
    p.halves = HalfMatrix(weights, n_out, n_in);
  } else if (type == ComputeType::f32) {
    p.weights = impl_->kernels.pack(type, n_out, n_in, weights.data());
    if (impl_->kernels.layout(type, n_out, n_in).panels)
      p.panels = static_cast<const float*>(p.weights.get_data_handle());
  } else if (type == ComputeType::int8) {
    std::vector<std::int8_t> integers(weights.size());
    std::vector<float> scales;
    for (std::size_t o = 0; o < static_cast<std::size_t>(n_out); ++o) {
      const auto row = weights.subspan(o * width, width);
      const RowScale scale = row_scale(ElementType::int8, row);
      std::byte* const to = reinterpret_cast<std::byte*>(integers.data()) + o * width;
      write_row(ElementType::int8, row, scale, {&to, 1});
      scales.push_back(scale.scale);
    }
    return pack_int8(integers, scales, n_out, n_in);
  } else {
    std::vector<std::uint16_t> narrowed(weights.size());
    to_bf16(weights, narrowed.data());
    p.weights = impl_->kernels.pack(type, n_out, n_in, narrowed.data());
  }
  return packed;
}

PackedMatrix Gemm::copy(const PackedMatrix& matrix) const {
  PackedMatrix copied;
  copied.n_out_ = matrix.n_out_;
  copied.n_in_ = matrix.n_in_;
  copied.type_ = matrix.type_;
  copied.impl_ = std::make_unique<PackedMatrix::Impl>();
  const PackedMatrix::Impl& from = *matrix.impl_;
  PackedMatrix::Impl& to = *copied.impl_;
  to.halves = from.halves;
  to.scales = from.scales;
  if (!from.weights) return copied;
  to.weights = impl_->kernels.allocate(matrix.type_, matrix.n_out_, matrix.n_in_);
  std::memcpy(to.weights.get_data_handle(), from.weights.get_data_handle(), from.weights.get_desc().get_size());
  if (from.panels) to.panels = static_cast<const float*>(to.weights.get_data_handle());
  return copied;
}

std::string Gemm::format(const PackedMatrix& matrix) const {
  const PackedMatrix::Impl& packed = *matrix.impl_;
  const std::string how = packed.halves.empty()
                              ? impl_->kernels.layout(matrix.type_, matrix.n_out_, matrix.n_in_).implementation
                              : std::string("own:bf16");
  return fmt::format("{} x {} {} {} of {} bytes", matrix.n_out_, matrix.n_in_, name_of(matrix.type_), how,
                     matrix.bytes());
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
  packed.impl_->weights = impl_->kernels.pack(ComputeType::int8, n_out, n_in, integers.data());
  packed.impl_->scales.assign(scales.begin(), scales.end());
  return packed;
}

void Gemm::multiply(const PackedMatrix& weights, const float* x, int rows, float* y, const PackedMatrix* next) {
  Impl& m = *impl_;
  const PackedMatrix::Impl& packed = *weights.impl_;
  const int n_in = weights.n_in_, n_out = weights.n_out_;
  const auto width = static_cast<std::size_t>(n_in);
  if (rows == 0) return;
  const auto by_library = [&m, &packed, n_out, n_in, x, rows, y] {
    return m.library_product(packed, n_out, n_in, x, rows, y);
  };
  if (!packed.halves.empty()) {
    const HalfMatrix* const after = next && !next->impl_->halves.empty() ? &next->impl_->halves : nullptr;
    m.run_own(
        2.0 * rows * n_out * n_in, "own:bf16",
        [&halves = packed.halves, x, rows, y, after] { halves.multiply(x, rows, y, after); }, by_library);
  } else if (packed.panels && rows <= few_rows) {
    m.run_own(
        2.0 * rows * n_out * n_in, "own:f32_few_rows",
        [=, panels = packed.panels] { multiply_panels(panels, n_out, n_in, x, rows, y); }, by_library);
  } else if (weights.type_ == ComputeType::f32) {
    LibraryKernels::by_pieces(rows, [&](int first, int piece) {
      m.run(m.kernels.product(ComputeType::f32, piece, n_out, n_in), piece, packed.weights, x + product(first, n_in),
            y + product(first, n_out));
    });
  } else if (weights.type_ == ComputeType::bf16) {
    m.halves.grow(product(largest_rows, n_in));
    LibraryKernels::by_pieces(rows, [&](int first, int piece) {
      to_bf16({x + product(first, n_in), product(piece, n_in)}, m.halves.data());
      m.run(m.kernels.product(ComputeType::bf16, piece, n_out, n_in), piece, packed.weights, m.halves.data(),
            y + product(first, n_out));
    });
  } else {
    m.bytes.grow(product(largest_rows, n_in));
    m.row_scales.grow(largest_rows);
    LibraryKernels::by_pieces(rows, [&](int first, int piece) {
      for (int r = 0; r < piece; ++r) {
        const std::span row(x + product(first + r, n_in), width);
        const RowScale scale = row_scale(ElementType::int8, row);
        std::byte* const to = reinterpret_cast<std::byte*>(m.bytes.data()) + product(r, n_in);
        write_row(ElementType::int8, row, scale, {&to, 1});
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
  LibraryKernels::by_pieces(rows, [&](int first, int piece) {
    m.run(m.kernels.product(ComputeType::int8, piece, n_out, n_in), piece, weights.impl_->weights,
          x + product(first, n_in), y + product(first, n_out));
  });
  for (int r = 0; r < rows; ++r)
    dequantise(scales[r], weights.impl_->scales.data(), static_cast<std::size_t>(n_out), y + product(r, n_out));
}

void Gemm::prepare(const PackedMatrix& weights, int rows) {
  Impl& m = *impl_;
  const int n_in = weights.n_in_, n_out = weights.n_out_;
  if (!weights.impl_->halves.empty()) return;
  for (int piece = 1; piece <= std::min(rows, largest_rows); piece += piece < LibraryKernels::exact_rows ? 1 : 8)
    m.kernels.product(weights.type_, piece, n_out, n_in);
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
  const auto own = [=] { latent_scores(product, queries, scores); };
  impl_->run_own(product.score_operations(), "own:latents", own, [p = product, queries, scores] {
    return [=] {
      LibraryKernels::sgemm('N', 'N', p.n_keys, p.lanes, p.width, 1, p.keys, p.stride, queries, p.lanes, 0, scores,
                            p.lanes);
    };
  });
}

void Gemm::attend_latents(const LatentProduct& product, const float* scores, float* context) {
  const auto own = [=] { latent_context(product, scores, context); };
  impl_->run_own(product.context_operations(), "own:latents", own, [p = product, scores, context] {
    return [=] {
      LibraryKernels::sgemm('T', 'N', p.used_lanes, p.lora, p.n_keys, 1, scores, p.lanes, p.keys, p.stride, 0, context,
                            p.lora);
    };
  });
}

void Gemm::attend_kept(const KeptProduct& product, float scale, const float* queries, float* scratch, float* out) {
  const auto own = [=] { moe::attend_kept(product, scale, queries, scratch, out); };
  // The library's products take a unit's keys as if they lay token by token: only their time counts.
  impl_->run_own(product.operations(), "own:kept", own, [p = product, queries, scratch, out] {
    return [=] {
      const KeptLayout& l = p.layout;
      constexpr int unit_tokens = KeptLayout::unit_tokens;
      p.by_units([&](const float* keys, int first, int tokens) {
        const float* values = keys + l.key_floats();
        float* scores = scratch;
        for (int head = 0; head < l.heads; ++head, scores += unit_tokens) {
          LibraryKernels::sgemm('N', 'T', p.rows, tokens, l.qk(), 1, queries + head * l.qk(), l.heads * l.qk(),
                                keys + head * l.nope * unit_tokens, l.qk(), 0, scores, l.heads * unit_tokens);
          LibraryKernels::sgemm('N', 'N', p.rows, l.v, tokens, 1, scores, l.heads * unit_tokens, values, l.padded_v(),
                                first == 0 ? 0.0f : 1.0f, out + head * l.v, l.heads * l.v);
          values += unit_tokens * l.padded_v();
        }
      });
    };
  });
}

void Gemm::start_recording() {
  impl_->calls.clear();
  impl_->stand_in_of.clear();
  impl_->stand_ins_used = 0;
  impl_->recording = true;
}

void Gemm::stop_recording() { impl_->recording = false; }

double Gemm::replay() {
  expect(!impl_->recording, "Gemm::replay while recording");
  const double start = wall_now().value;
  for (const Impl::Call& call : impl_->calls) call.repeat();
  return wall_now().value - start;
}

double Gemm::replay_by_library() {
  expect(!impl_->recording, "Gemm::replay_by_library while recording");
  std::vector<Impl::Action> actions;
  for (const Impl::Call& call : impl_->calls) actions.push_back(call.by_library ? call.by_library() : call.repeat);
  const double start = wall_now().value;
  for (const Impl::Action& action : actions) action();
  return wall_now().value - start;
}

std::map<std::string, double> Gemm::recorded_operations() const {
  std::map<std::string, double> sums;
  for (const Impl::Call& call : impl_->calls) sums[call.implementation] += call.operations;
  return sums;
}

}  // namespace supernode::moe
