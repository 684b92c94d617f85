#pragma once
// The lower limit of the benchmark: what an exchange costs a rank when nothing has to go anywhere.

#include <span>
#include <vector>

#include "collectives/algorithms/packing.hpp"

namespace supernode::collectives {

/// Does a rank's share of an exchange in its own memory: quantises the same rows into as many messages, writes the sums
/// of as many rows, adds up as many contributions. Sends nothing, waits for nobody.
class LocalWork {
 public:
  /// @param rows_from [ranks] rows that the rank receives in the round which this stands for
  LocalWork(const ExchangeConfig& config, int rank, std::span<const int> rows_from, Stores stores);
  void dispatch(const TokensToSend& tokens);
  /// The way back of the last dispatch. `sums` [rows received, hidden], `out` [n_tokens, hidden].
  void combine(std::span<const float> sums, std::span<float> out);

 private:
  /// Own sums need no copy when they travel as they are.
  bool stays(int rank) const { return rank == setup_.rank && setup_.config.combine_payload == Payload::f32; }

  ExchangeSetup setup_;
  Round round_;
  Stores stores_;
  Buffer<std::byte> messages_, sums_out_, sums_in_;
  std::vector<std::byte*> to_;
};

}  // namespace supernode::collectives
