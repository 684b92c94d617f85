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
//             has them.
//
// Messages a rank: ranks flags each way, and the rows as plain stores. Bytes: the messages, moved once.
//
// Between hosts. The segments are an MPI window too. Rows for ranks of other hosts are quantised into a buffer, put
// from there into the same slots, flushed, and announced. The announcement is a message of one line and not a put flag:
// a second put would need a second flush, a round trip, before one knew that it is on its way. Puts start in begin;
// flushes, which need the peer inside MPI, and announcements happen in end, where all ranks come. There the peer waits
// for announcements or flushes itself, and both let MPI serve others; nobody's flush waits for an announcement. So
// there is no cycle. Messages a rank: one put and one line to each rank of another host each way. Bytes: once more
// through the buffer.
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
// through release-stores and acquire-loads, so the reads happen before the new writes; between hosts the announcements
// take the place of the flags. Two rounds in flight use different sets, and a rank that runs ahead stops at the first
// flag that a slow peer has not set. A reused flag is told from a new one by the round number.

#include <memory>
#include <utility>
#include <vector>

#include "collectives/algorithms/algorithm.hpp"
#include "collectives/algorithms/announcements.hpp"
#include "collectives/algorithms/host_memory.hpp"
#include "collectives/algorithms/remote_window.hpp"
#include "collectives/algorithms/segment.hpp"
#include "collectives/algorithms/wait_for_peer.hpp"
#include "collectives/rows/ring.hpp"

namespace supernode::collectives {
namespace {

/// Slots and flags in a segment, each by phase, round set and source.
class Slots {
 public:
  explicit Slots(const ExchangeSetup& setup)
      : ranks_(setup.n_ranks),
        slot_bytes_{setup.dispatch.bytes(setup.config.max_tokens), setup.combine.bytes(setup.config.max_tokens)},
        segment_(2 * n_round_sets * static_cast<std::size_t>(ranks_)) {
    for (const std::size_t bytes : slot_bytes_) segment_.add_region(bytes * static_cast<std::size_t>(ranks_));
  }

  const Segment& segment() const { return segment_; }
  std::size_t flag(Phase phase, int set, int source) const {
    return static_cast<std::size_t>((static_cast<int>(phase) * n_round_sets + set) * ranks_ + source);
  }
  std::size_t slot(Phase phase, int set, int source) const {
    const auto region = static_cast<std::size_t>(phase);
    return segment_.offset(set, region) + slot_bytes_[region] * static_cast<std::size_t>(source);
  }

 private:
  int ranks_;
  std::size_t slot_bytes_[2];  // by phase
  Segment segment_;
};

/// A round's buffers: the messages to other hosts, from which is put.
enum Part : std::size_t { dispatch_out, combine_out, n_parts };

/// The way to the ranks of other hosts.
class OtherHosts {
 public:
  OtherHosts(const ExchangeSetup& setup, const Communicator& comm, const Slots& slots, std::byte* memory,
             PlannedBuffers& buffers)
      : setup_(setup),
        slots_(slots),
        buffers_(buffers),
        window_(setup, comm, memory, slots.segment().bytes()),
        announcements_(setup, comm),
        from_(setup.n_ranks),
        bytes_(setup.n_ranks) {}

  /// Before anything else of the round's phase.
  void begin(Phase phase, const Round& round) {
    announcements_.begin(phase, round);
    end_ = buffers_.of_round(round.set, phase == Phase::dispatch ? dispatch_out : combine_out);
  }

  /// Room for a message to `rank`.
  std::byte* reserve(int rank, std::size_t bytes) {
    bytes_[rank] = bytes;
    return from_[rank] = std::exchange(end_, end_ + bytes);
  }

  void put(Phase phase, const Round& round, int rank) const {
    if (bytes_[rank] > 0) window_.put(rank, slots_.slot(phase, round.set, setup_.rank), from_[rank], bytes_[rank]);
  }

  /// rows_to(rank): of the message there.
  template <class RowsTo>
  void announce(Phase phase, const Round& round, RowsTo&& rows_to) {
    announcements_.for_ranks([&](int rank) {
      const int rows = rows_to(rank);
      if (rows > 0) window_.flush(rank, round, name_of(phase), watchdog_);
      announcements_.send(phase, round, rank, rows);
    });
  }

  /// Rows of the message from `source`, once it lies in its slot.
  int await(Phase phase, const Round& round, int source) {
    const int rows = announcements_.await(phase, round, source);
    window_.sync();
    return rows;
  }

 private:
  const ExchangeSetup& setup_;
  const Slots& slots_;
  PlannedBuffers& buffers_;
  RemoteWindow window_;
  Announcements<int> announcements_;
  Watchdog watchdog_;
  // Of the begin at hand.
  std::byte* end_ = nullptr;  // of what is reserved
  std::vector<std::byte*> from_;
  std::vector<std::size_t> bytes_;
};

class Direct final : public ExchangeAlgorithm {
 public:
  Direct(const ExchangeSetup& setup, const Communicator& comm)
      : setup_(setup),
        slots_(setup),
        memory_(setup, comm, slots_.segment().bytes(), slots_.segment().flags()),
        buffers_(plan_direct(setup)),
        waiting_(setup, comm),
        to_(setup.n_ranks) {
    if (setup.hosts.hosts() > 1) others_ = std::make_unique<OtherHosts>(setup, comm, slots_, memory_.own(), buffers_);
  }

  void begin_dispatch(Round& round, const TokensToSend& tokens) override {
    if (others_) others_->begin(Phase::dispatch, round);
    for (int rank = 0; rank < setup_.n_ranks; ++rank)
      to_[rank] = setup_.is_local(rank) ? memory_.of(rank) + slots_.slot(Phase::dispatch, round.set, setup_.rank)
                                        : others_->reserve(rank, setup_.dispatch.bytes(round.plan.rows_to(rank)));
    const Stores stores = stores_for(Phase::dispatch, round.plan.n_rows() * setup_.dispatch.bytes(1));
    write_messages(setup_, round.plan, tokens, to_, stores);
    if (stores == Stores::streaming) flush_stores();
    for_ranks([&](int rank) {
      if (setup_.is_local(rank)) {
        raise(Phase::dispatch, round, rank, round.plan.rows_to(rank));
      } else {
        others_->put(Phase::dispatch, round, rank);
      }
    });
  }

  void end_dispatch(Round& round) override {
    if (others_) others_->announce(Phase::dispatch, round, [&](int rank) { return round.plan.rows_to(rank); });
    for (int rank = 0; rank < setup_.n_ranks; ++rank)
      round.set_arrived(rank, slot(Phase::dispatch, round, rank), await(Phase::dispatch, round, rank));
  }

  void begin_combine(Round& round) override {
    if (others_) others_->begin(Phase::combine, round);
    const Stores stores =
        stores_for(Phase::combine, setup_.combine.row_stride() * static_cast<std::size_t>(round.n_rows()));
    for_ranks([&](int rank) {
      const bool local = setup_.is_local(rank);
      std::byte* const to = local ? memory_.of(rank) + slots_.slot(Phase::combine, round.set, setup_.rank)
                                  : others_->reserve(rank, setup_.combine.bytes(round.rows_from[rank]));
      if (rank != setup_.rank || setup_.config.combine_payload != Payload::f32) write_sums(round, rank, to, stores);
      if (stores == Stores::streaming) flush_stores();
      if (local) {
        raise(Phase::combine, round, rank, round.rows_from[rank]);
      } else {
        others_->put(Phase::combine, round, rank);
      }
    });
  }

  void end_combine(Round& round) override {
    if (others_) others_->announce(Phase::combine, round, [&](int rank) { return round.rows_from[rank]; });
    for (int rank = 0; rank < setup_.n_ranks; ++rank) {
      await(Phase::combine, round, rank);
      round.sums_from[rank] = slot(Phase::combine, round, rank);
    }
    if (setup_.config.combine_payload == Payload::f32) round.keep_own_sums();
  }

  std::size_t allocated_bytes() const override { return memory_.allocated_bytes() + buffers_.allocated_bytes(); }

 private:
  /// Messages are streamed past the cache when those of all ranks together would not keep their slots there until they
  /// are used again. Rows of a dispatch are quantised and read once, so this is worth it far earlier than for sums,
  /// which are added up as soon as they have come.
  Stores stores_for(Phase phase, std::size_t bytes) const {
    return bytes * static_cast<std::size_t>(setup_.n_ranks) > streaming_above_[static_cast<int>(phase)]
               ? Stores::streaming
               : Stores::ordinary;
  }

  /// In ring order, oneself last.
  template <class Visit>
  void for_ranks(Visit&& visit) const {
    for_others(setup_.rank, setup_.n_ranks, visit);
    visit(setup_.rank);
  }

  const std::byte* slot(Phase phase, const Round& round, int source) const {
    return memory_.own() + slots_.slot(phase, round.set, source);
  }

  void raise(Phase phase, const Round& round, int rank, int rows) {
    memory_.flag(rank, slots_.flag(phase, round.set, setup_.rank)).raise(round.number, rows);
  }

  /// Rows of the message from `source`, once it is complete.
  int await(Phase phase, const Round& round, int source) {
    if (!setup_.is_local(source)) return others_->await(phase, round, source);
    const Flag& flag = memory_.flag(setup_.rank, slots_.flag(phase, round.set, source));
    int rows = -1;
    waiting_.until(
        source, [&] { return (rows = flag.rows_of(round.number)) >= 0; },
        [&] { return missing_message(round, name_of(phase), source); });
    return rows;
  }

  static constexpr std::size_t streaming_above_[] = {std::size_t{2} << 20, std::size_t{24} << 20};

  const ExchangeSetup& setup_;
  Slots slots_;
  HostMemory memory_;
  PlannedBuffers buffers_;
  ProgressingWait waiting_;
  std::vector<std::byte*> to_;          // [ranks], scratch
  std::unique_ptr<OtherHosts> others_;  // when there are any
};

}  // namespace

BufferPlan plan_direct(const ExchangeSetup& setup) {
  const int remote = setup.n_remote();
  BufferPlan plan;
  plan.segment = Slots(setup).segment().bytes() + segment_overhead_bytes;
  plan.of_round.resize(n_parts);
  plan.of_round[dispatch_out] = setup.dispatch.bytes(setup.max_rows_to(remote), static_cast<std::size_t>(remote));
  plan.of_round[combine_out] = setup.combine.bytes(setup.config.max_tokens) * static_cast<std::size_t>(remote);
  return plan;
}

std::unique_ptr<ExchangeAlgorithm> make_direct(const ExchangeSetup& setup, const Communicator& comm) {
  return std::make_unique<Direct>(setup, comm);
}

}  // namespace supernode::collectives
