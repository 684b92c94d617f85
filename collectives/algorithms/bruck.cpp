// bruck: ceil(log2 ranks) messages a rank, each with half of everything; for rows so few that messages cost more than
// bytes.
//
// Words. The *block* j of a rank is what it holds for the rank j places further on (modulo ranks). A block is a message
// of DispatchLayout or CombineLayout. With p ranks, in step k = 0, 1, ... (2^k < p) every rank sends all blocks whose
// number has bit k to the rank 2^k further on, and puts what comes from the rank 2^k before in their places. Block j
// travels in the steps of its bits, 2^k places in each, so j places in all: afterwards block j of a rank comes from the
// rank j places before it. This holds for every p, powers of two or not. A step's message begins with the row counts of
// its blocks in ascending order, in whole lines; both directions are alike.
//
//   dispatch: rows are quantised into the blocks; then the steps.
//   combine:  sums are written into blocks for the origins; then the steps.
//
// Steps and messages a rank: ceil(log2 p) each way. Bytes: about (p / 2) log2(p) / (p - 1) times those of the others,
// and each is copied once more for each step. All steps happen in dispatch_end and combine_end. Every rank makes the
// same sequence of these calls, so who waits in one of them waits for ranks on their way to it: no cycle.
//
// When a buffer is used again: sends of a step are waited for in the step; the received blocks lie in the set's buffer
// until the set is used again, when the caller has given rows and sums back.

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "collectives/algorithms/algorithm.hpp"
#include "collectives/algorithms/messages.hpp"

namespace supernode::collectives {
namespace {

/// A round's buffers: blocks of one's own, and what the steps receive.
enum Part : std::size_t { dispatch_own, dispatch_in, combine_own, combine_in, n_parts };

struct Block {
  const std::byte* data = nullptr;
  int rows = 0;
};

/// Blocks that travel in step k, of p ranks.
int blocks_in_step(int k, int p) {
  int n = 0;
  for (int j = 0; j < p; ++j) n += (j >> k) & 1;
  return n;
}

std::size_t header_bytes(int blocks) { return whole_lines(sizeof(int) * static_cast<std::size_t>(blocks)); }

/// Largest message of step k when a block has at most `block_bytes`.
std::size_t step_bytes(int k, int p, std::size_t block_bytes) {
  const int blocks = blocks_in_step(k, p);
  return header_bytes(blocks) + static_cast<std::size_t>(blocks) * block_bytes;
}

/// What all steps of one direction receive.
std::size_t arrival_bytes(int p, std::size_t block_bytes) {
  std::size_t sum = 0;
  for (int k = 0; (1 << k) < p; ++k) sum += step_bytes(k, p, block_bytes);
  return sum;
}

std::size_t largest_step_bytes(int p, std::size_t block_bytes) { return p == 1 ? 0 : step_bytes(0, p, block_bytes); }

std::size_t largest_dispatch(const ExchangeSetup& setup) { return setup.dispatch.bytes(setup.config.max_tokens); }
std::size_t largest_combine(const ExchangeSetup& setup) { return setup.combine.bytes(setup.config.max_tokens); }

class Bruck final : public ExchangeAlgorithm {
 public:
  Bruck(const ExchangeSetup& setup, const Communicator& comm)
      : setup_(setup), messages_(setup, comm), buffers_(plan_bruck(setup)) {
    sets_.reserve(n_round_sets);
    for (int i = 0; i < n_round_sets; ++i) sets_.emplace_back(setup.n_ranks);
  }

  void begin_dispatch(Round& round, const TokensToSend& tokens) override {
    Set& set = sets_[round.set];
    std::byte* at = buffer(round, dispatch_own);
    for (int rank = 0; rank < setup_.n_ranks; ++rank) {
      set.to[rank] = at;
      set.blocks[distance_to(rank)] = {at, round.plan.rows_to(rank)};
      at += setup_.dispatch.bytes(round.plan.rows_to(rank));
    }
    write_messages(setup_, round.plan, tokens, set.to, Stores::ordinary);
  }

  void end_dispatch(Round& round) override {
    Set& set = sets_[round.set];
    const auto bytes_of = [&](int rows) { return setup_.dispatch.bytes(rows); };
    travel(round, Phase::dispatch, 0, bytes_of, largest_dispatch(setup_), buffer(round, dispatch_in));
    for (int rank = 0; rank < setup_.n_ranks; ++rank) {
      const Block& block = set.blocks[distance_from(rank)];
      round.set_arrived(rank, block.data, block.rows);
    }
  }

  void begin_combine(Round& round) override {
    Set& set = sets_[round.set];
    std::byte* at = buffer(round, combine_own);
    for (int rank = 0; rank < setup_.n_ranks; ++rank) {
      write_sums(round, rank, at, Stores::ordinary);
      set.blocks[distance_to(rank)] = {at, round.rows_from[rank]};
      at += setup_.combine.bytes(round.rows_from[rank]);
    }
  }

  void end_combine(Round& round) override {
    Set& set = sets_[round.set];
    const auto bytes_of = [&](int rows) { return setup_.combine.bytes(rows); };
    travel(round, Phase::combine, max_steps, bytes_of, largest_combine(setup_), buffer(round, combine_in));
    for (int rank = 0; rank < setup_.n_ranks; ++rank) round.sums_from[rank] = set.blocks[distance_from(rank)].data;
  }

  std::size_t allocated_bytes() const override { return buffers_.allocated_bytes(); }

 private:
  static constexpr int max_steps = 31;

  struct Set {
    explicit Set(int ranks) : to(ranks), blocks(ranks) {}
    std::vector<std::byte*> to;
    std::vector<Block> blocks;  // [ranks], by places to travel
  };

  std::byte* buffer(const Round& round, Part part) { return buffers_.of_round(round.set, part); }
  int distance_to(int rank) const { return (rank - setup_.rank + setup_.n_ranks) % setup_.n_ranks; }
  int distance_from(int rank) const { return (setup_.rank - rank + setup_.n_ranks) % setup_.n_ranks; }

  /// The steps of one direction. Tags begin at `first_tag`.
  template <class BytesOf>
  void travel(Round& round, Phase phase, int first_tag, BytesOf&& bytes_of, std::size_t largest_block,
              std::byte* into) {
    std::vector<Block>& blocks = sets_[round.set].blocks;
    const int p = setup_.n_ranks;
    for (int k = 0; (1 << k) < p; ++k) {
      const int next = (setup_.rank + (1 << k)) % p, before = (setup_.rank - (1 << k) + p) % p;
      const int tag = message_tag(round.set, first_tag + k);
      const std::size_t header = header_bytes(blocks_in_step(k, p)), room = step_bytes(k, p, largest_block);
      OwnedRequest send, receive;
      messages_.receive(into, room, before, tag, receive);

      std::byte* const message = buffers_.scratch();
      std::size_t end = header;
      int n = 0;
      for (int j = 0; j < p; ++j) {
        if (((j >> k) & 1) == 0) continue;
        std::memcpy(message + sizeof(int) * static_cast<std::size_t>(n++), &blocks[j].rows, sizeof(int));
        const std::size_t bytes = bytes_of(blocks[j].rows);
        if (bytes > 0) std::memcpy(message + end, blocks[j].data, bytes);
        end += bytes;
      }
      messages_.send(message, end, next, tag, send);
      wait(receive, send, round, name_of(phase), before, next);

      const std::byte* data = into + header;
      n = 0;
      for (int j = 0; j < p; ++j) {
        if (((j >> k) & 1) == 0) continue;
        std::memcpy(&blocks[j].rows, into + sizeof(int) * static_cast<std::size_t>(n++), sizeof(int));
        blocks[j].data = data;
        data += bytes_of(blocks[j].rows);
      }
      into += room;
    }
  }

  /// After an error MPI still owns the requests, and a destructor would wait for the silent peer.
  void wait(OwnedRequest& receive, OwnedRequest& send, const Round& round, std::string_view what, int before,
            int next) {
    try {
      messages_.finish_receive(receive, round, what, before);
      messages_.finish_send(send, round, what, next);
    } catch (...) {
      abandoned_.push_back(std::move(receive));
      abandoned_.push_back(std::move(send));
      throw;
    }
  }

  const ExchangeSetup& setup_;
  Messages messages_;
  PlannedBuffers buffers_;  // the scratch is a step's outgoing message
  std::vector<Set> sets_;
  std::vector<OwnedRequest> abandoned_;  // never destroyed: see ExchangeAlgorithm
};

}  // namespace

BufferPlan plan_bruck(const ExchangeSetup& setup) {
  const int p = setup.n_ranks;
  const std::size_t dispatch = largest_dispatch(setup), combine = largest_combine(setup);
  BufferPlan plan;
  plan.of_round.resize(n_parts);
  plan.of_round[dispatch_own] = setup.dispatch.bytes(setup.max_rows_out(), p);
  plan.of_round[dispatch_in] = arrival_bytes(p, dispatch);
  plan.of_round[combine_own] = setup.combine.row_stride() * setup.max_rows_in();
  plan.of_round[combine_in] = arrival_bytes(p, combine);
  plan.scratch = largest_step_bytes(p, std::max(dispatch, combine));
  return plan;
}

std::unique_ptr<ExchangeAlgorithm> make_bruck(const ExchangeSetup& setup, const Communicator& comm) {
  return std::make_unique<Bruck>(setup, comm);
}

}  // namespace supernode::collectives
