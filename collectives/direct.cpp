// direct: every rank stores straight into its peers' slots, as the dies of the supernode do over their memory fabric.
//
// Words. A rank's *segment* lies in memory that all ranks of the host share. For each of the two round sets and each
// source rank it has a *dispatch slot* and a *combine slot*, each large enough for the worst message of that source,
// and for each slot a *flag*, alone on its cache line: the number of the last round whose message is complete there,
// and its row count.
//
//   dispatch: quantise every row into the slots of its ranks; then for every peer, also one that gets no rows, a
//             release-store of its flag. The receiver polls its flags (acquire) and uses the rows where they lie.
//   combine:  the same with the sums, into the origins' combine slots. A rank's own f32 sums are read where the caller
//   has them.
//
// Messages a rank: ranks flags each way, and the rows as plain stores. Bytes: the messages, moved once.
//
// When a slot may be written again. There is no barrier; this is the argument. Take two successive rounds r < q that
// use the same set. The set of a round is the lowest free one, and a set is free when its combine has ended: so on
// every rank
//     combine_end(r) precedes dispatch_begin(q). (1)
// Dispatch slot and flag of source A at rank P: A writes them for q after its own combine_end(r), by (1). That waited
// for P's combine flag of r, as for every peer's, rows or no rows. P set this flag in combine_begin(r), after its
// dispatch_end(r) had seen A's dispatch flag of r and after its caller gave the rows back with the handle. So P is done
// with both. Combine slot and flag of source P at rank A: P writes them for q in combine_begin(q), after its
// dispatch_end(q) saw A's dispatch flag of q. A set that in dispatch_begin(q), by (1) after its combine_end(r), in
// which it saw P's combine flag of r and added up the rows. So A is done with both. In both cases the chain goes
// through release-stores and acquire-loads, so the reads happen before the new writes. Two rounds in flight use
// different sets, and a rank that runs ahead stops at the first flag that a slow peer has not set. A reused flag is
// told from a new one by the round number.

#include <atomic>
#include <string>
#include <vector>

#include "collectives/internal/algorithm.hpp"
#include "collectives/internal/wait_recorder.hpp"
#include "runtime/core/mpi_call.hpp"
#include "runtime/core/sizes.hpp"

namespace supernode::collectives {
namespace {

enum class Phase { dispatch, combine };

struct alignas(line_bytes) Flag {
  std::atomic<std::uint64_t> round_and_rows;  ///< round number << 32 | rows
};
static_assert(std::atomic<std::uint64_t>::is_always_lock_free, "flags work between processes");

constexpr std::uint64_t flag_value(std::uint64_t round, int rows) {
  return round << 32 | static_cast<std::uint32_t>(rows);
}

/// Offsets in a segment.
class Segment {
 public:
  explicit Segment(const ExchangeSetup& setup)
      : ranks_(setup.n_ranks),
        dispatch_slot_(setup.dispatch.bytes(setup.config.max_tokens)),
        combine_slot_(setup.combine.bytes(setup.config.max_tokens)) {}

  std::size_t flag(Phase phase, int set, int source) const {
    return sizeof(Flag) * index(static_cast<int>(phase) * n_round_sets + set, source);
  }
  std::size_t slot(Phase phase, int set, int source) const {
    const std::size_t dispatch = sizeof(Flag) * index(2 * n_round_sets, 0);
    if (phase == Phase::dispatch) return dispatch + dispatch_slot_ * index(set, source);
    return dispatch + dispatch_slot_ * index(n_round_sets, 0) + combine_slot_ * index(set, source);
  }
  std::size_t bytes() const { return slot(Phase::combine, n_round_sets, 0); }

 private:
  std::size_t index(int row, int source) const {
    return static_cast<std::size_t>(row) * static_cast<std::size_t>(ranks_) + static_cast<std::size_t>(source);
  }
  int ranks_;
  std::size_t dispatch_slot_, combine_slot_;
};

/// A window of memory shared by the ranks of a host; pages come into being when they are touched.
OwnedWindow allocate_shared(std::size_t bytes, const Communicator& comm) {
  OwnedInfo info;
  SUPERNODE_MPI(MPI_Info_create(info.out()));
  SUPERNODE_MPI(MPI_Info_set(info.get(), "alloc_shared_noncontig", "true"));
  OwnedWindow window;
  std::byte* mine = nullptr;  // asked for again, as everyone's
  if (MPI_Win_allocate_shared(static_cast<MPI_Aint>(bytes), 1, info.get(), comm.get(), &mine, window.out()) !=
      MPI_SUCCESS)
    throw EnvironmentError("exchange algorithm 'direct': no shared memory of " +
                           format_size(static_cast<double>(bytes)) + " for each of " + std::to_string(comm.size()) +
                           " ranks (is /dev/shm large enough?)");
  return window;
}

class Direct final : public ExchangeAlgorithm {
 public:
  Direct(const ExchangeSetup& setup, const Communicator& comm)
      : setup_(setup), segment_(setup), segments_(setup.n_ranks), to_(setup.n_ranks) {
    window_ = allocate_shared(segment_.bytes() + line_bytes, comm);
    for (int rank = 0; rank < setup.n_ranks; ++rank) {
      MPI_Aint size = 0;
      int unit = 0;
      SUPERNODE_MPI(MPI_Win_shared_query(window_.get(), rank, &size, &unit, &segments_[rank]));
      // Open MPI puts a segment anywhere in a page; all processes see it at the same place in the page.
      const auto address = reinterpret_cast<std::uintptr_t>(segments_[rank]);
      segments_[rank] += whole_lines(address) - address;
    }
    for (const Phase phase : {Phase::dispatch, Phase::combine})
      for (int set = 0; set < n_round_sets; ++set)
        for (int source = 0; source < setup.n_ranks; ++source)
          new (segments_[setup.rank] + segment_.flag(phase, set, source)) Flag{0};
    comm.barrier();  // nobody writes a flag before it exists
  }

  void begin_dispatch(RoundBuffers& round, const TokensToSend& tokens) override {
    for (int rank = 0; rank < setup_.n_ranks; ++rank)
      to_[rank] = segments_[rank] + segment_.slot(Phase::dispatch, round.set, setup_.rank);
    const Stores stores = stores_for(round.plan.n_rows() * setup_.dispatch.bytes(1));
    write_messages(setup_, round.plan, tokens, to_, stores);
    if (stores == Stores::streaming) flush_stores();
    for (int rank = 0; rank < setup_.n_ranks; ++rank) raise(Phase::dispatch, round, rank, round.plan.rows_to(rank));
  }

  void end_dispatch(RoundBuffers& round) override {
    for (int rank = 0; rank < setup_.n_ranks; ++rank) {
      round.rows_from[rank] = await(Phase::dispatch, round, rank);
      round.message_from[rank] = segments_[setup_.rank] + segment_.slot(Phase::dispatch, round.set, rank);
    }
  }

  void begin_combine(RoundBuffers& round) override {
    const Stores stores = stores_for(setup_.combine.row_stride() * static_cast<std::size_t>(round.n_rows()));
    // The next rank first, oneself last, so that not all ranks write to the same one.
    for (int step = 1; step <= setup_.n_ranks; ++step) {
      const int rank = (setup_.rank + step) % setup_.n_ranks;
      if (rank != setup_.rank || setup_.config.combine_payload != Payload::f32)
        write_sums(round, rank, segments_[rank] + segment_.slot(Phase::combine, round.set, setup_.rank), stores);
      if (stores == Stores::streaming) flush_stores();
      raise(Phase::combine, round, rank, round.rows_from[rank]);
    }
  }

  void end_combine(RoundBuffers& round) override {
    for (int rank = 0; rank < setup_.n_ranks; ++rank) {
      await(Phase::combine, round, rank);
      round.sums_from[rank] = segments_[setup_.rank] + segment_.slot(Phase::combine, round.set, rank);
    }
    if (setup_.config.combine_payload == Payload::f32) {
      const std::size_t row_bytes = sizeof(float) * static_cast<std::size_t>(setup_.config.hidden);
      round.sums_stride[setup_.rank] = row_bytes;
      round.sums_from[setup_.rank] = reinterpret_cast<const std::byte*>(round.sums) +
                                     row_bytes * static_cast<std::size_t>(round.first_row[setup_.rank]);
    }
  }

 private:
  /// Messages that all ranks together could not keep in the last-level cache are streamed past it.
  Stores stores_for(std::size_t bytes) const {
    return bytes * static_cast<std::size_t>(setup_.n_ranks) > streaming_above_ ? Stores::streaming : Stores::ordinary;
  }

  Flag& flag_at(int rank, Phase phase, int set, int source) const {
    return *reinterpret_cast<Flag*>(segments_[rank] + segment_.flag(phase, set, source));
  }

  void raise(Phase phase, const RoundBuffers& round, int rank, int rows) {
    flag_at(rank, phase, round.set, setup_.rank)
        .round_and_rows.store(flag_value(round.number, rows), std::memory_order_release);
  }

  /// Rows of the message from `source`, once it is complete.
  int await(Phase phase, const RoundBuffers& round, int source) {
    const Flag& flag = flag_at(setup_.rank, phase, round.set, source);
    std::uint64_t value = 0;
    wait_for_peer(
        setup_, source,
        [&] {
          value = flag.round_and_rows.load(std::memory_order_acquire);
          return value >> 32 == (round.number & 0xffffffff);
        },
        [&] {
          return std::string("no ") + (phase == Phase::dispatch ? "dispatch" : "combine") + " message of round " +
                 std::to_string(round.number) + " from rank " + std::to_string(source);
        });
    return static_cast<int>(value & 0xffffffff);
  }

  static constexpr std::size_t streaming_above_ = std::size_t{24} << 20;

  const ExchangeSetup& setup_;
  Segment segment_;
  OwnedWindow window_;
  std::vector<std::byte*> segments_;  // [ranks], of each rank in this rank's address space
  std::vector<std::byte*> to_;        // [ranks], scratch
};

}  // namespace

std::string direct_obstacle(const ExchangeShape& shape) {
  if (shape.hosts == 1) return {};
  return "it works within one host, and the " + std::to_string(shape.ranks) + " ranks span " +
         std::to_string(shape.hosts) + " (take alltoallv or auto)";
}

std::size_t direct_buffer_bytes(const ExchangeSetup& setup) { return Segment(setup).bytes() + line_bytes; }

std::unique_ptr<ExchangeAlgorithm> make_direct(const ExchangeSetup& setup, const Communicator& comm) {
  return std::make_unique<Direct>(setup, comm);
}

}  // namespace supernode::collectives
