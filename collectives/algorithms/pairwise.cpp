// pairwise: one nonblocking message to each peer, the row count in front of the rows.
//
//   dispatch: receives of the worst size are posted first; the rows are quantised straight into one packed send buffer,
//             message after message, each behind a line with its row count; then one MPI_Isend for each peer, the next
//             rank first, so that not all ranks send to the same one. A message to oneself stays where it was written.
//   combine:  the counts are known. Each peer's sums are packed and sent while the earlier ones travel.
//
// Steps: 1 each way (alltoallv: 2 there). Messages a rank: ranks - 1 each way, also empty ones: they carry the count.
// Bytes: the messages and a line each, once through the send and once through the receive buffer.
//
// When a buffer is used again: its requests have been waited for, receives in dispatch_end and combine_end, sends of
// the dispatch in combine_end of the same round. There the peer has answered, so its receive is complete and the wait
// is short; sends of the combine are waited for when the set is used next.

#include <cstring>
#include <vector>

#include "collectives/algorithms/algorithm.hpp"
#include "collectives/algorithms/messages.hpp"
#include "collectives/rows/ring.hpp"

namespace supernode::collectives {
namespace {

/// A round's buffers: packed messages, and where they arrive.
enum Part : std::size_t { dispatch_out, dispatch_in, combine_out, combine_in, n_parts };

std::size_t dispatch_slot(const ExchangeSetup& setup) {
  return line_bytes + setup.dispatch.bytes(setup.config.max_tokens);
}

class Pairwise final : public ExchangeAlgorithm {
 public:
  Pairwise(const ExchangeSetup& setup, const Communicator& comm)
      : setup_(setup), messages_(setup, comm), buffers_(plan_pairwise(setup)) {
    sets_.reserve(n_round_sets);
    for (int i = 0; i < n_round_sets; ++i) sets_.emplace_back(setup.n_ranks);
  }

  void begin_dispatch(Round& round, const TokensToSend& tokens) override {
    Set& set = sets_[round.set];
    for_peers([&](int rank) { messages_.finish_send(set.combine_sends[rank], round, "earlier combine", rank); });
    const std::size_t slot = dispatch_slot(setup_);
    for_peers([&](int rank) {
      messages_.receive(buffer(round, dispatch_in) + slot * static_cast<std::size_t>(rank), slot, rank,
                        message_tag(round.set, Phase::dispatch), set.receives[rank]);
    });
    std::byte* at = buffer(round, dispatch_out);
    for (int rank = 0; rank < setup_.n_ranks; ++rank) {
      const int rows = round.plan.rows_to(rank);
      std::memcpy(at, &rows, sizeof rows);
      set.to[rank] = at + line_bytes;
      at = set.to[rank] + setup_.dispatch.bytes(rows);
    }
    write_messages(setup_, round.plan, tokens, set.to, Stores::ordinary);
    for_peers([&](int rank) {
      messages_.send(set.to[rank] - line_bytes, line_bytes + setup_.dispatch.bytes(round.plan.rows_to(rank)), rank,
                     message_tag(round.set, Phase::dispatch), set.dispatch_sends[rank]);
    });
  }

  void end_dispatch(Round& round) override {
    Set& set = sets_[round.set];
    round.set_arrived(setup_.rank, set.to[setup_.rank], round.plan.rows_to(setup_.rank));
    for_peers([&](int rank) {
      messages_.finish_receive(set.receives[rank], round, "dispatch", rank);
      const std::byte* message = buffer(round, dispatch_in) + dispatch_slot(setup_) * static_cast<std::size_t>(rank);
      int rows = 0;
      std::memcpy(&rows, message, sizeof rows);
      round.set_arrived(rank, message + line_bytes, rows);
    });
  }

  void begin_combine(Round& round) override {
    Set& set = sets_[round.set];
    std::byte* at = buffer(round, combine_in);
    for (int rank = 0; rank < setup_.n_ranks; ++rank) {
      round.sums_from[rank] = at;
      const std::size_t bytes = setup_.combine.bytes(round.plan.rows_to(rank));
      if (rank != setup_.rank)
        messages_.receive(at, bytes, rank, message_tag(round.set, Phase::combine), set.receives[rank]);
      at += bytes;
    }
    std::byte* out = buffer(round, combine_out);
    for_peers([&](int rank) {
      const std::size_t bytes = setup_.combine.bytes(round.rows_from[rank]);
      write_sums(round, rank, out, Stores::ordinary);
      messages_.send(out, bytes, rank, message_tag(round.set, Phase::combine), set.combine_sends[rank]);
      out += bytes;
    });
    write_sums(round, setup_.rank, out, Stores::ordinary);
    round.sums_from[setup_.rank] = out;
  }

  void end_combine(Round& round) override {
    Set& set = sets_[round.set];
    for_peers([&](int rank) { messages_.finish_receive(set.receives[rank], round, "combine", rank); });
    for_peers([&](int rank) { messages_.finish_send(set.dispatch_sends[rank], round, "dispatch", rank); });
  }

  std::size_t allocated_bytes() const override { return buffers_.allocated_bytes(); }

 private:
  struct Set {
    explicit Set(int ranks) : to(ranks), receives(ranks), dispatch_sends(ranks), combine_sends(ranks) {}
    std::vector<std::byte*> to;  // [ranks], behind the line with the count
    std::vector<OwnedRequest> receives, dispatch_sends, combine_sends;
  };

  template <class Visit>
  void for_peers(Visit&& visit) const {
    for_others(setup_.rank, setup_.n_ranks, visit);
  }
  std::byte* buffer(const Round& round, Part part) { return buffers_.of_round(round.set, part); }

  const ExchangeSetup& setup_;
  Messages messages_;
  PlannedBuffers buffers_;
  std::vector<Set> sets_;
};

}  // namespace

BufferPlan plan_pairwise(const ExchangeSetup& setup) {
  BufferPlan plan;
  plan.of_round.resize(n_parts);
  plan.of_round[dispatch_out] = setup.dispatch.bytes(setup.max_rows_out(), 2 * setup.n_ranks);
  plan.of_round[dispatch_in] = dispatch_slot(setup) * static_cast<std::size_t>(setup.n_ranks);
  plan.of_round[combine_out] = setup.combine.row_stride() * setup.max_rows_in();
  plan.of_round[combine_in] = setup.combine.row_stride() * setup.max_rows_out();
  return plan;
}

std::unique_ptr<ExchangeAlgorithm> make_pairwise(const ExchangeSetup& setup, const Communicator& comm) {
  return std::make_unique<Pairwise>(setup, comm);
}

}  // namespace supernode::collectives
