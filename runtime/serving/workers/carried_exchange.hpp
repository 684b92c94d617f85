#pragma once
// The exchange of a step that nobody computes, with its bytes: each die really sends the rows that its record names to
// the dies of their slots, and gets them back.
//
// A row has the emulated machine's size (emulation/moe_stage):
//   dispatch  dispatch_message_bytes(): hidden int8 values and a scale, padded to a multiple of 512; without early
//             quantisation 2 * hidden (bf16)                                          R1: 7680
//   combine   combine_message_bytes(): 2 * hidden (bf16)                              R1: 14336
// Messages carry 16 bytes of routing beside each dispatched row. Rows are whole lines of 64 bytes, so a model whose
// `hidden` is no multiple of 32 has up to 63 bytes more on the way back.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "collectives/token_exchange.hpp"
#include "runtime/core/buffer.hpp"
#include "runtime/core/mpi/communicator.hpp"
#include "runtime/emulation/step_time.hpp"
#include "runtime/serving/load/payload.hpp"

namespace supernode::serving {

/// Most bytes of buffers that it has on a die, unless a single row of each die needs more.
inline constexpr std::size_t kCarriedExchangeBytes = 64u << 20;

struct CarriedExchangeOptions {
  emulation::ModelShape model;
  emulation::StepSetup setup;  ///< of the instance
  std::string algorithm = "auto";
  std::shared_ptr<const collectives::SelectionRules> rules = {};
  double deadline_s = 120;  ///< longest wait for another die
};

/// Equal options on all dies of an instance.
class CarriedExchange {
 public:
  /// Collective over `instance`, which is borrowed. @throws as collectives::TokenExchange
  CarriedExchange(const Communicator& instance, const CarriedExchangeOptions& options);

  /// Dispatch and combine of every layer and microbatch of this die's record. A row is a token with one expert, the slot;
  /// what is more than a slice goes in several rounds, as many on each die as the fullest one needs. Both ends check what
  /// came. Collective over the dies of the instance, whose records have as many microbatches and layers.
  /// @throws TimeoutError naming dies that did not come; EnvironmentError for a row that came wrong.
  /// Cost: all bytes are copied three times or more.
  void move(const emulation::DieStep& step);

  /// Of this die since construction: the rows that it sent, there and back; time inside dispatch, reading the rows that
  /// came, and combine.
  Transfers transfers() const;
  /// Rows of this die that go in one round at the most; equal on all dies.
  int slice_rows() const { return slice_rows_; }
  /// What this die has allocated, or will when the largest round comes.
  std::size_t buffer_bytes() const;
  const std::string& algorithm() const { return exchange_.algorithm(); }

 private:
  /// The next up to slice_rows() rows of those that are left to send, as expert ids.
  void fill_slice(std::span<std::int32_t> left);
  void round();
  void check_arrived(const collectives::DispatchedTokens& tokens) const;
  std::int32_t expert_of(int slot) const;
  float* row(int i) { return sent_.data() + product(i, hidden_); }

  const Communicator& instance_;
  const emulation::ExpertLayout layout_;
  const int slots_;         ///< of a record's layer
  const int slots_of_die_;  ///< experts that a die has in the exchange; those with a shared expert use the first
  const int hidden_;
  const double deadline_s_;
  const int slice_rows_;
  collectives::TokenExchange exchange_;
  std::vector<std::int32_t> experts_;  ///< of the slice under way
  std::vector<float> weights_;
  Buffer<float> sent_, returned_;  ///< [slice_rows, hidden]
  Buffer<float> arrived_;          ///< [rows from all dies, hidden]
  double wall_s_ = 0;
};

}  // namespace supernode::serving
