#include "moe/internal/library_kernels.hpp"

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
/// In the order of ComputeType.
constexpr Types types_of[] = {{DataType::f32, DataType::f32, DataType::f32},
                              {DataType::bf16, DataType::bf16, DataType::f32},
                              {DataType::s8, DataType::s8, DataType::s32}};

/// oneDNN 2.6 has fast kernels for the packed layouts chosen here on AVX2. On AVX-512 and AMX the layout chosen for one
/// row count sends others to its reference loops, a hundred times slower and with bits that depend on the row count. So
/// AVX2 is the limit unless the user sets one.
void limit_instruction_set() {
  if (std::getenv("DNNL_MAX_CPU_ISA") == nullptr && std::getenv("ONEDNN_MAX_CPU_ISA") == nullptr)
    static_cast<void>(dnnl_set_max_cpu_isa(dnnl_cpu_isa_avx2));
}

/// Not oneDNN's reference loops, which are a hundred times slower than its kernels.
bool is_fast(const dnnl::convolution_forward::primitive_desc& description) {
  return std::string_view(description.impl_info_str()).find("ref") == std::string_view::npos;
}

dnnl::engine make_engine() {
  limit_instruction_set();
  return guarded("no CPU engine", [] { return dnnl::engine(dnnl::engine::kind::cpu, 0); });
}

}  // namespace

LibraryKernels::LibraryKernels() : engine_(make_engine()), stream_(engine_) {}

dnnl::convolution_forward::primitive_desc LibraryKernels::describe(ComputeType type, int rows, int n_out, int n_in,
                                                                   const dnnl::memory::desc& weights) {
  const Types types = types_of[static_cast<int>(type)];
  const dnnl::memory::desc x({1, n_in, 1, rows}, types.x, Format::nhwc), y({1, n_out, 1, rows}, types.y, Format::nhwc);
  return {
      {dnnl::prop_kind::forward_inference, dnnl::algorithm::convolution_direct, x, weights, y, {1, 1}, {0, 0}, {0, 0}},
      engine_};
}

const LibraryKernels::Layout& LibraryKernels::layout(ComputeType type, int n_out, int n_in) {
  auto at = layouts_.find({type, n_out, n_in});
  if (at == layouts_.end()) {
    const dnnl::memory::desc any({n_out, n_in, 1, 1}, types_of[static_cast<int>(type)].weights, Format::any);
    const auto description = describe(type, layout_rows, n_out, n_in, any);
    const dnnl::memory::desc panels({n_out, n_in, 1, 1}, DataType::f32, Format::OIhw8i8o);
    const Layout found{description.weights_desc(), is_fast(description), description.weights_desc() == panels};
    at = layouts_.emplace(std::tuple{type, n_out, n_in}, found).first;
  }
  return at->second;
}

bool LibraryKernels::multiplies_bf16() {
  try {
    return layout(ComputeType::bf16, 64, 64).fast;
  } catch (const dnnl::error&) {
    return false;
  }
}

LibraryKernels::Product& LibraryKernels::product(ComputeType type, int rows, int n_out, int n_in) {
  auto at = products_.find({type, n_out, n_in, rows});
  if (at != products_.end()) return at->second;
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
      padded_x_.grow(description.src_desc().get_size());
      padded_y_.grow(description.dst_desc().get_size());
      std::memset(padded_x_.data(), 0, padded_x_.size());
    }
    Product made{dnnl::convolution_forward(description),
                 dnnl::memory(description.src_desc(), engine_, nullptr),
                 dnnl::memory(description.dst_desc(), engine_, nullptr),
                 description.impl_info_str(),
                 computed,
                 2.0 * rows * n_out * n_in};
    return products_.emplace(std::tuple{type, n_out, n_in, rows}, std::move(made)).first->second;
  });
}

dnnl::memory LibraryKernels::pack(ComputeType type, int n_out, int n_in, const void* plain) {
  return guarded("packing a matrix", [&] {
    dnnl::memory from({{n_out, n_in, 1, 1}, types_of[static_cast<int>(type)].weights, Format::oihw}, engine_,
                      const_cast<void*>(plain));
    dnnl::memory to(layout(type, n_out, n_in).description, engine_);
    dnnl::reorder(from, to).execute(stream_, from, to);
    stream_.wait();
    return to;
  });
}

void LibraryKernels::run(Product& product, int rows, dnnl_memory_t weights, const void* x, void* y) {
  if (product.rows == rows) {
    execute(product, weights, const_cast<void*>(x), y);
    return;
  }
  const auto part = [&](const dnnl::memory& memory) {
    return memory.get_desc().get_size() / static_cast<std::size_t>(product.rows) * static_cast<std::size_t>(rows);
  };
  std::memcpy(padded_x_.data(), x, part(product.x));
  execute(product, weights, padded_x_.data(), padded_y_.data());
  std::memcpy(y, padded_y_.data(), part(product.y));
}

void LibraryKernels::execute(Product& product, dnnl_memory_t weights, void* x, void* y) {
  product.x.set_data_handle(x);
  product.y.set_data_handle(y);
  const dnnl_exec_arg_t arguments[] = {
      {DNNL_ARG_SRC, product.x.get()}, {DNNL_ARG_WEIGHTS, weights}, {DNNL_ARG_DST, product.y.get()}};
  check(dnnl_primitive_execute(product.primitive.get(), stream_.get(), 3, arguments), "a product");
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
