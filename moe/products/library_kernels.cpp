#include "moe/products/library_kernels.hpp"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <string_view>
#include <utility>

#include "runtime/core/error.hpp"

namespace supernode::moe {
namespace {

using Format = dnnl::memory::format_tag;
using DataType = dnnl::memory::data_type;

/// Rows of the primitive that chooses the packed layout; the others are made for that layout.
constexpr int layout_rows = 64;

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
Types types_of(ComputeType type) {
  if (type == ComputeType::int8) return {DataType::s8, DataType::s8, DataType::s32};
  if (type == ComputeType::bf16) return {DataType::bf16, DataType::bf16, DataType::f32};
  return {DataType::f32, DataType::f32, DataType::f32};
}

// The generations of oneDNN that differ. From 3 on a primitive has one description and no descriptor before it.
#if DNNL_VERSION_MAJOR >= 3
constexpr bool row_alone_differs = true;     ///< a matmul of one row sums it otherwise than among others
constexpr bool panels_are_asked_for = true;  ///< left to choose, an f32 convolution packs by the number of rows

dnnl::primitive_desc matmul_of(const dnnl::engine& engine, const dnnl::memory::desc& x,
                               const dnnl::memory::desc& weights, const dnnl::memory::desc& y) {
  constexpr bool allow_empty = true;
  return dnnl::matmul::primitive_desc(engine, x, weights, y, dnnl::primitive_attr(), allow_empty);
}
dnnl::primitive_desc convolution_of(const dnnl::engine& engine, const dnnl::memory::desc& x,
                                    const dnnl::memory::desc& weights, const dnnl::memory::desc& y) {
  return dnnl::convolution_forward::primitive_desc(engine, dnnl::prop_kind::forward_inference,
                                                   dnnl::algorithm::convolution_direct, x, weights, y, {1, 1}, {0, 0},
                                                   {0, 0});
}
#else
constexpr bool row_alone_differs = false;
constexpr bool panels_are_asked_for = false;

dnnl::primitive_desc matmul_of(const dnnl::engine& engine, const dnnl::memory::desc& x,
                               const dnnl::memory::desc& weights, const dnnl::memory::desc& y) {
  constexpr bool allow_empty = true;
  return dnnl::matmul::primitive_desc({x, weights, y}, engine, allow_empty);
}
dnnl::primitive_desc convolution_of(const dnnl::engine& engine, const dnnl::memory::desc& x,
                                    const dnnl::memory::desc& weights, const dnnl::memory::desc& y) {
  return dnnl::convolution_forward::primitive_desc(
      {dnnl::prop_kind::forward_inference, dnnl::algorithm::convolution_direct, x, weights, y, {1, 1}, {0, 0}, {0, 0}},
      engine);
}
#endif

/// Below AVX-512 with VNNI, AVX2 is the limit unless the user sets one: oneDNN 2.6 has no packed matmul for bytes
/// there, and its convolutions for AVX2 are the tried ones.
void limit_instruction_set() {
  if (std::getenv("DNNL_MAX_CPU_ISA") != nullptr || std::getenv("ONEDNN_MAX_CPU_ISA") != nullptr) return;
#if defined(__x86_64__)
  if (!__builtin_cpu_supports("avx512vnni")) static_cast<void>(dnnl_set_max_cpu_isa(dnnl_cpu_isa_avx2));
#endif
}

/// The matmul that keeps weights packed; oneDNN's other takes plain ones and packs them at every call.
bool is_packed_matmul(const dnnl::primitive_desc& description) {
  if (description.get(true) == nullptr) return false;
  const std::string_view name = description.impl_info_str();
  return name.starts_with("brg:") || name.starts_with("brg_matmul:");  // oneDNN 2 and 3
}

/// Whether a row's bits depend on how many rows a primitive is for. Mostly the inputs are cut into chunks, each with
/// its own sum, by their number alone; but for AMX so that a chunk of weights and the rows fit into a cache. (Sums of
/// bytes are exact.)
bool depends_on_rows(ComputeType type, std::string_view implementation) {
  return type == ComputeType::bf16 && implementation.find("amx") != std::string_view::npos;
}

dnnl::engine make_engine() {
  limit_instruction_set();
  return guarded("no CPU engine", [] { return dnnl::engine(dnnl::engine::kind::cpu, 0); });
}

}  // namespace

LibraryKernels::LibraryKernels() : engine_(make_engine()), stream_(engine_) {}

dnnl::primitive_desc LibraryKernels::describe(Form form, ComputeType type, int rows, int n_out, int n_in,
                                              const dnnl::memory::desc& weights) {
  const Types types = types_of(type);
  if (form == Form::matmul) {
    const dnnl::memory::desc x({rows, n_in}, types.x, Format::ab), y({rows, n_out}, types.y, Format::ab);
    return matmul_of(engine_, x, weights, y);
  }
  const dnnl::memory::desc x({1, n_in, 1, rows}, types.x, Format::nhwc), y({1, n_out, 1, rows}, types.y, Format::nhwc);
  return convolution_of(engine_, x, weights, y);
}

dnnl::memory::desc LibraryKernels::weights_of(Form form, ComputeType type, int n_out, int n_in, WeightOrder order) {
  const bool plain = order == WeightOrder::rows;
  const DataType element = types_of(type).weights;
  if (form == Form::matmul) return {{n_in, n_out}, element, plain ? Format::ba : Format::any};
  return {{n_out, n_in, 1, 1}, element, plain ? Format::oihw : Format::any};
}

const LibraryKernels::Layout& LibraryKernels::layout(ComputeType type, int n_out, int n_in) {
  auto at = layouts_.find({type, n_out, n_in});
  if (at == layouts_.end()) {
    const auto by = [&](Form form) {
      return describe(form, type, layout_rows, n_out, n_in,
                      weights_of(form, type, n_out, n_in, WeightOrder::of_primitive));
    };
    dnnl::primitive_desc description = by(Form::matmul);
    const Form form = is_packed_matmul(description) ? Form::matmul : Form::convolution;
    const dnnl::memory::desc panels({n_out, n_in, 1, 1}, DataType::f32, Format::OIhw8i8o);
    if (form == Form::convolution)
      description = panels_are_asked_for && type == ComputeType::f32
                        ? describe(form, type, layout_rows, n_out, n_in, panels)
                        : by(form);
    const dnnl::memory::desc weights = description.query_md(dnnl::query::weights_md);
    const char* const implementation = description.impl_info_str();
    const Layout found{form, weights, implementation, depends_on_rows(type, implementation), weights == panels};
    at = layouts_.emplace(std::tuple{type, n_out, n_in}, found).first;
  }
  return at->second;
}

bool LibraryKernels::multiplies_bf16() {
  constexpr int n = 64;
  const auto any = weights_of(Form::matmul, ComputeType::bf16, n, n, WeightOrder::of_primitive);
  return is_packed_matmul(describe(Form::matmul, ComputeType::bf16, layout_rows, n, n, any));
}

LibraryKernels::Product& LibraryKernels::product(ComputeType type, int rows, int n_out, int n_in) {
  auto at = products_.find({type, n_out, n_in, rows});
  if (at != products_.end()) return at->second;
  return guarded("making a product", [&]() -> Product& {
    const Layout& packed = layout(type, n_out, n_in);
    int computed = packed.one_primitive ? layout_rows : rows;
    if (row_alone_differs && packed.form == Form::matmul) computed = std::max(computed, 2);
    dnnl::primitive_desc description = describe(packed.form, type, computed, n_out, n_in, packed.description);
    const auto is_the_layouts = [&](const dnnl::primitive_desc& one) {
      return one.get(true) != nullptr && packed.implementation == one.impl_info_str();
    };
    // For some numbers of rows oneDNN takes another kernel, which would give a row other bits, or has none for the
    // layout. For more rows it takes the layout's own.
    for (int more = 8; more <= largest_rows && !is_the_layouts(description); more *= 2) {
      if (more <= rows) continue;
      const auto padded = describe(packed.form, type, more, n_out, n_in, packed.description);
      if (!is_the_layouts(padded)) continue;
      description = padded;
      computed = more;
    }
    if (rows % computed != 0) {
      padded_x_.grow(description.query_md(dnnl::query::src_md).get_size());
      padded_y_.grow(description.query_md(dnnl::query::dst_md).get_size());
      std::memset(padded_x_.data(), 0, padded_x_.size());
    }
    Product made{dnnl::primitive(description),
                 dnnl::memory(description.query_md(dnnl::query::src_md), engine_, nullptr),
                 dnnl::memory(description.query_md(dnnl::query::dst_md), engine_, nullptr),
                 description.impl_info_str(),
                 computed,
                 2.0 * rows * n_out * n_in};
    return products_.emplace(std::tuple{type, n_out, n_in, rows}, std::move(made)).first->second;
  });
}

dnnl::memory LibraryKernels::pack(ComputeType type, int n_out, int n_in, const void* plain) {
  return guarded("packing a matrix", [&] {
    const Layout& packed = layout(type, n_out, n_in);
    dnnl::memory from(weights_of(packed.form, type, n_out, n_in, WeightOrder::rows), engine_, const_cast<void*>(plain));
    dnnl::memory to(packed.description, engine_);
    dnnl::reorder(from, to).execute(stream_, from, to);
    stream_.wait();
    return to;
  });
}

void LibraryKernels::run(Product& product, int rows, dnnl_memory_t weights, const void* x, void* y) {
  const auto size_of = [&](const dnnl::memory& memory, int n) {
    return memory.get_desc().get_size() / static_cast<std::size_t>(product.rows) * static_cast<std::size_t>(n);
  };
  for (int first = 0; first < rows; first += product.rows) {
    const auto from = static_cast<const std::byte*>(x) + size_of(product.x, first);
    const auto to = static_cast<std::byte*>(y) + size_of(product.y, first);
    const int left = rows - first;
    if (left >= product.rows) {
      execute(product, weights, const_cast<std::byte*>(from), to);
    } else {
      std::memcpy(padded_x_.data(), from, size_of(product.x, left));
      execute(product, weights, padded_x_.data(), padded_y_.data());
      std::memcpy(to, padded_y_.data(), size_of(product.y, left));
    }
  }
}

void LibraryKernels::execute(Product& product, dnnl_memory_t weights, void* x, void* y) {
  product.x.set_data_handle(x);
  product.y.set_data_handle(y);
  const dnnl_exec_arg_t arguments[] = {
      {DNNL_ARG_SRC, product.x.get()}, {DNNL_ARG_WEIGHTS, weights}, {DNNL_ARG_DST, product.y.get()}};
  check(dnnl_primitive_execute(product.primitive.get(), stream_.get(), 3, arguments), "a product");
}

dnnl::memory LibraryKernels::allocate(ComputeType type, int n_out, int n_in) {
  return guarded("making room for a matrix",
                 [&] { return dnnl::memory(layout(type, n_out, n_in).description, engine_); });
}

dnnl::memory LibraryKernels::place(ComputeType type, int n_out, int n_in, void* weights) {
  return {layout(type, n_out, n_in).description, engine_, weights};
}

void LibraryKernels::sgemm(char transpose_a, char transpose_b, int m, int n, int k, float alpha, const float* a,
                           std::ptrdiff_t lda, const float* b, std::ptrdiff_t ldb, float beta, float* c,
                           std::ptrdiff_t ldc) {
  check(dnnl_sgemm(transpose_a, transpose_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc), "sgemm");
}

}  // namespace supernode::moe
