#pragma once
// What an exchange remembers of a round in flight.

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "collectives/algorithms/setup.hpp"
#include "collectives/rows/send_plan.hpp"
#include "runtime/core/buffer.hpp"

namespace supernode::collectives {

/// Rows that have arrived from one rank, wherever they lie.
struct ArrivedRows {
  const std::byte* routing = nullptr;   ///< a record for each row
  const std::byte* rows = nullptr;      ///< the dispatch layout's row stride apart
  const std::int32_t* index = nullptr;  ///< place of each row among `rows`; null: one after another
};

/// A round goes idle -> sent -> arrived -> returned -> idle, by dispatch_begin, dispatch_end, combine_begin and
/// combine_end.
enum class Stage { idle, sent, arrived, returned };

/// A round from the begin of its dispatch to the end of its combine. Its lists are allocated once, for the largest
/// round.
struct Round {
  explicit Round(const ExchangeSetup& setup, int set_number);
  /// Bytes that a round allocates.
  static std::size_t bytes(const ExchangeSetup& setup);
  std::size_t allocated_bytes() const;  ///< what this one has allocated

  const ExchangeSetup* setup;
  const int set;  ///< 0 or 1: which buffers of the algorithm the round uses
  Stage stage = Stage::idle;
  std::uint64_t number = 0;  ///< 1 for the first round of the exchange; equal on all ranks
  double dispatch_s = 0;     ///< wall seconds inside begin and end of the dispatch so far
  double combine_s = 0;      ///< likewise of the combine
  SendPlan plan;

  // Set by the algorithm when the dispatch ends.
  std::vector<ArrivedRows> arrived;  ///< [ranks]
  std::vector<int> rows_from;        ///< [ranks]

  // Derived by index_rows().
  std::vector<int> first_row;      ///< [ranks + 1]
  Buffer<const std::byte*> row;    ///< [n_rows]
  Buffer<float> scale;             ///< [n_rows]
  std::vector<int> expert_offset;  ///< [local experts + 1] into the two lists
  Buffer<std::int32_t> expert_row;
  Buffer<float> expert_weight;

  // The way back.
  const float* sums = nullptr;              ///< [n_rows, hidden], the caller's
  std::vector<const std::byte*> sums_from;  ///< [ranks]: contribution of each rank, rows sums_stride apart
  std::vector<std::size_t> sums_stride;     ///< [ranks]

  /// f32 sums for this rank itself are taken from where the caller has them.
  void keep_own_sums();

  int n_rows() const { return first_row.back(); }
  /// For a message of DispatchLayout with `rows` rows: sets arrived and rows_from.
  void set_arrived(int source, const std::byte* message, int rows);
  /// Row pointers, scales and the expert lists from the messages.
  void index_rows();
  /// out = for each token the sum of its contributions in ascending rank order.
  void add_up(std::span<float> out) const;

 private:
  mutable std::vector<const std::byte*> contributions_;  ///< of one token
};

}  // namespace supernode::collectives
