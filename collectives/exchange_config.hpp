#pragma once
// What an exchange is built for, and what that costs in bytes. Knows no MPI.

#include <cstddef>
#include <memory>
#include <string>

#include "collectives/payload.hpp"
#include "runtime/core/phase.hpp"

namespace supernode::collectives {

struct SelectionRules;  // selection/rules.hpp

/// What an exchange is built for; equal on all ranks.
struct ExchangeConfig {
  int max_tokens = 0;   ///< most tokens that a rank dispatches at once, > 0
  int hidden = 0;       ///< elements of a row, > 0
  int topk = 0;         ///< expert ids of a token, > 0
  int num_experts = 0;  ///< physical experts over all ranks, > 0; see ExpertPartition for who holds which
  Payload dispatch_payload = Payload::f32;
  Payload combine_payload = Payload::f32;  ///< bf16 or f32
  /// A dispatched row is padded to at least these bytes, as on machines whose messages are; 0: to whole lines of 64. The
  /// padding is never written, but messages between processes carry it.
  int least_dispatch_row_bytes = 0;
  std::string algorithm = "auto";  ///< a name of algorithms() or "auto"
  int typical_tokens = 0;          ///< tokens a rank for which "auto" chooses; 0: max_tokens
  double typical_skew = 1;         ///< likewise: rows of the busiest rank over the mean
  /// By which "auto" chooses; equal on all ranks. Null: the rules that ship (rule_file.hpp reads others).
  std::shared_ptr<const SelectionRules> rules = {};
  double deadline_s = 120;  ///< longest wait for a peer
  int fake_hosts = 1;       ///< for tests: treat each host's ranks as this many hosts, in blocks
};

/// Bytes of a message with `rows` rows: rows and, in a dispatch, their routing.
std::size_t message_bytes(const ExchangeConfig& config, Phase phase, int rows);
/// Bytes of a row in it, without routing.
std::size_t row_bytes(const ExchangeConfig& config, Phase phase);

/// Bytes that a rank of `ranks` allocates for `config`: slots, packed messages and lists, from the worst case that
/// every rank sends all its tokens to this one. Pages that no message touches are not resident. Pure, no communication.
/// "auto" gives the largest of the algorithms that its rules may take, over any number of hosts. The ranks stand in
/// equal blocks on `hosts` hosts.
/// @throws UsageError as TokenExchange does.
std::size_t exchange_buffer_bytes(const ExchangeConfig& config, int ranks, int hosts = 1);

}  // namespace supernode::collectives
