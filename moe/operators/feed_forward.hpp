#pragma once
// The gated unit of dense layers, shared experts and routed experts: down(silu(gate(x)) * up(x)).

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "moe/checkpoint.hpp"
#include "moe/products/gemm.hpp"
#include "runtime/core/buffer.hpp"

namespace supernode::moe {

/// Intermediate rows, shared by all units of a model.
struct FeedForwardScratch {
  /// @param max_intermediate the widest unit's
  explicit FeedForwardScratch(int max_intermediate);

  /// Rows that a unit works on at a time: enough for full speed, few enough to stay in the cache.
  static constexpr int block_rows = 128;
  HugePageBuffer<float> gate_up;  ///< [block_rows, 2 * intermediate]
  HugePageBuffer<float> active;   ///< [block_rows, intermediate]
};

class FeedForward {
 public:
  /// Reads `prefix`.{gate_proj, up_proj, down_proj}. @throws UsageError as Checkpoint::read.
  FeedForward(Checkpoint& checkpoint, const std::string& prefix, int intermediate, ComputeType type, Gemm& gemm);

  /// Makes what products of up to `rows` rows need.
  void prepare(int rows, Gemm& gemm) const;

  /// Of the packed weights.
  std::size_t bytes() const { return gate_up_.bytes() + down_.bytes(); }
  /// Where they lie, bytes() in all. Units of one format() may take over each other's.
  std::vector<std::span<std::byte>> storage();
  std::string format(const Gemm& gemm) const;
  /// The same unit in memory of its own.
  FeedForward copy(const Gemm& gemm) const;

  /// @param x [rows, hidden], @param y [rows, hidden]; x and y may not overlap
  /// @param next the unit that comes after this one, if known: see Gemm::multiply
  void forward(const float* x, int rows, Gemm& gemm, FeedForwardScratch& scratch, float* y,
               const FeedForward* next = nullptr) const;

  /// The same for rows that came quantised: row r is scales[r] * x[r, :]. Only for int8.
  void forward_quantised(const std::int8_t* x, const float* scales, int rows, Gemm& gemm, FeedForwardScratch& scratch,
                         float* y) const;

 private:
  FeedForward(int hidden, int intermediate, PackedMatrix gate_up, PackedMatrix down);

  /// `project(first row, rows)` fills scratch.gate_up.
  template <class Project>
  void by_blocks(int rows, Gemm& gemm, FeedForwardScratch& scratch, float* y, const FeedForward* next,
                 Project&& project) const;

  int hidden_, intermediate_;
  PackedMatrix gate_up_, down_;
};

}  // namespace supernode::moe
