#include "moe/products/packing.hpp"

#include <vector>

namespace supernode::moe {
namespace {

template <class T>
void append(std::vector<T>& to, const std::vector<T>& from) {
  to.insert(to.end(), from.begin(), from.end());
}

/// The matrices as they are stored, if all of them are int8.
std::optional<Int8Matrix> stored_int8(Checkpoint& checkpoint, std::span<const NamedMatrix> matrices, int n_in) {
  Int8Matrix joined;
  for (const NamedMatrix& matrix : matrices) {
    const std::optional<Int8Matrix> part = checkpoint.read_int8(matrix.name, {matrix.n_out, n_in});
    if (!part) return std::nullopt;
    append(joined.integers, part->integers);
    append(joined.scales, part->scales);
  }
  return joined;
}

}  // namespace

PackedMatrix pack_together(Checkpoint& checkpoint, std::span<const NamedMatrix> matrices, int n_in, ComputeType type,
                           Gemm& gemm) {
  int n_out = 0;
  for (const NamedMatrix& matrix : matrices) n_out += matrix.n_out;
  if (type == ComputeType::int8)
    if (const std::optional<Int8Matrix> stored = stored_int8(checkpoint, matrices, n_in))
      return gemm.pack_int8(stored->integers, stored->scales, n_out, n_in);
  std::vector<float> values;
  for (const NamedMatrix& matrix : matrices) append(values, checkpoint.read(matrix.name, {matrix.n_out, n_in}));
  return gemm.pack(values, n_out, n_in, type);
}

}  // namespace supernode::moe
