#pragma once
// The token exchange of expert parallelism: dispatch sends every token's row to the ranks that hold its experts,
// combine brings the experts' weighted sums back and adds them up.
//
//   TokenExchange exchange(comm, {.max_tokens = 128, .hidden = 7168, .topk = 8, .num_experts = 256,
//                                 .dispatch_payload = Payload::int8, .combine_payload = Payload::bf16});
//   DispatchedTokens tokens = exchange.dispatch(rows, expert_ids, weights);
//   for (int e = 0; e < tokens.n_local_experts(); ++e)
//     for (std::size_t i = 0; i < tokens.expert_rows(e).size(); ++i) {
//       const int row = tokens.expert_rows(e)[i];
//       sums[row] += tokens.expert_weights(e)[i] * expert(e, row);  // of [hidden] each
//     }
//   exchange.combine(std::move(tokens), sums, out);
//
// A token goes once to each rank that holds any of its experts. The origin adds the contributions in ascending rank
// order in f32, so all algorithms give the same bits.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "collectives/exchange_config.hpp"
#include "collectives/expert_partition.hpp"
#include "runtime/core/mpi/communicator.hpp"

namespace supernode::collectives {

struct Round;  // algorithms/round.hpp

/// The rows that a dispatch brought to this rank. Move-only; consumed by combine. The spans point into buffers of the
/// exchange and are valid until combine (or combine_begin) takes the handle.
class DispatchedTokens {
 public:
  DispatchedTokens() = default;  ///< empty: no exchange behind it
  DispatchedTokens(DispatchedTokens&& other) noexcept;
  DispatchedTokens& operator=(DispatchedTokens&& other) noexcept;
  DispatchedTokens(const DispatchedTokens&) = delete;
  DispatchedTokens& operator=(const DispatchedTokens&) = delete;

  /// Distinct rows received, ordered by (source rank, token at the source).
  int n_rows() const;
  int hidden() const;
  Payload payload() const;
  /// Rows of source rank r are [first_row_of(r), first_row_of(r + 1)).
  int first_row_of(int source_rank) const;

  /// The row as it arrived, when payload() is int8: value = row_scale(row) * element. 64-byte aligned.
  std::span<const std::int8_t> row_int8(int row) const;
  float row_scale(int row) const;  ///< 1 unless int8
  /// The row as f32, whatever the payload. `out` [hidden].
  void copy_row_f32(int row, std::span<float> out) const;
  /// All rows as f32. `out` [n_rows, hidden].
  void copy_rows_f32(std::span<float> out) const;

  /// Experts that live on this rank; local expert e is physical expert ExpertPartition::first(rank) + e.
  int n_local_experts() const;
  /// The rows that local expert `e` must process, ascending, and the weight of each.
  std::span<const std::int32_t> expert_rows(int e) const;
  std::span<const float> expert_weights(int e) const;

 private:
  friend class TokenExchange;
  explicit DispatchedTokens(Round* round) : round_(round) {}
  const Round& round() const;
  Round* round_ = nullptr;
};

/// Seconds that a rank has waited for its peers. It looks at them one after the other, and what passes is booked on the
/// one it is looking at, so the sum over peers is the time lost. Where MPI's messages are waited for, the time in which
/// MPI moves them counts too.
struct WaitTimes {
  std::vector<double> for_peer_s;  ///< [ranks]
  double for_group_s = 0;          ///< inside MPI's own all-to-all, which does not tell for whom
};

/// What rounds have cost this rank, and who sent how much to whom. message_bytes() gives the bytes.
struct ExchangeStatistics {
  double dispatch_s = 0;             ///< wall seconds inside begin and end of the dispatch that ended last
  double combine_s = 0;              ///< likewise of the combine that ended last
  std::vector<int> dispatched_to;    ///< [ranks] rows that went to each rank in that dispatch, to itself too
  std::vector<int> dispatched_from;  ///< [ranks] rows that came from each rank, from itself too
  WaitTimes waits;                   ///< over all rounds since construction
  std::uint64_t rows = 0;            ///< that this rank dispatched since construction, to itself too
  std::uint64_t rows_away = 0;       ///< of these, to other ranks

  /// Rows to and from each rank in a phase of that round; the combine sends them back the way they came.
  std::span<const int> rows_to(Phase phase) const { return phase == Phase::dispatch ? dispatched_to : dispatched_from; }
  std::span<const int> rows_from(Phase phase) const {
    return phase == Phase::dispatch ? dispatched_from : dispatched_to;
  }
};

/// Dispatch and combine over the ranks of a communicator, with everything allocated beforehand: no allocation, no
/// window or communicator creation and no barrier after construction.
///
/// Calls are collective: every rank makes the same sequence of them, also with no tokens. Rounds (a dispatch and its
/// combine) end in the order in which they began, and two may be in flight: a second dispatch may begin before the
/// first combine has ended, so that one microbatch's transfer hides behind the other's arithmetic. Not for two threads
/// at once.
///
/// Arguments of the wrong size, ids outside [-1, num_experts) and calls out of order are bugs of the caller and panic.
class TokenExchange {
 public:
  /// Collective over `comm`, which it duplicates.
  /// @throws UsageError, the same on all ranks: a value out of range, an unknown algorithm (names the known ones).
  /// @throws EnvironmentError, the same on all ranks: the named algorithm needs windows that this MPI refuses; or
  /// memory cannot be had.
  TokenExchange(const Communicator& comm, const ExchangeConfig& config);
  ~TokenExchange();  ///< collective: frees windows and communicators
  TokenExchange(TokenExchange&&) noexcept;
  TokenExchange& operator=(TokenExchange&&) noexcept;

  /// Sends this rank's tokens and returns the rows that came. Tokens may differ in number between ranks and be 0.
  /// @param rows [n_tokens, hidden] @param expert_ids [n_tokens, topk], physical experts, -1 = none
  /// @param weights [n_tokens, topk], carried to the experts
  /// @throws TimeoutError naming rank and peer when one stays silent for deadline_s; the exchange is unusable
  /// afterwards.
  DispatchedTokens dispatch(std::span<const float> rows, std::span<const std::int32_t> expert_ids,
                            std::span<const float> weights);
  /// Returns the experts' sums to their origins and adds them up there.
  /// @param sums [n_rows, hidden]: for each received row the weighted sum over this rank's experts
  /// @param out [n_tokens, hidden] of the dispatch: the sum over ranks; 0 for a token without experts
  /// @throws TimeoutError as dispatch().
  void combine(DispatchedTokens&& tokens, std::span<const float> sums, std::span<float> out);

  /// The two halves of dispatch(): begin sends, the arguments may be reused when it returns; end waits for the rows.
  void dispatch_begin(std::span<const float> rows, std::span<const std::int32_t> expert_ids,
                      std::span<const float> weights);
  DispatchedTokens dispatch_end();
  /// The two halves of combine(): begin releases the rows and sends; `sums` must stay until end. End waits for the sums
  /// of the oldest round whose combine has begun, and adds them up.
  void combine_begin(DispatchedTokens&& tokens, std::span<const float> sums);
  void combine_end(std::span<float> out);

  const ExchangeConfig& config() const;
  const ExpertPartition& experts() const;
  /// The algorithm in use, never "auto".
  const std::string& algorithm() const;
  /// The rule by which "auto" took it, "<file>:<line>"; empty when it was asked for by name.
  const std::string& chosen_by() const;
  /// What this rank allocated, counted in the buffers themselves; exchange_buffer_bytes() tells it beforehand.
  std::size_t buffer_bytes() const;
  /// Statistics of the rounds so far: rows and time of the dispatch that ended last, time of the combine that ended
  /// last.
  const ExchangeStatistics& statistics() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace supernode::collectives
