// pull: every rank writes its rows once, into memory of its own, and says so; whoever needs them reads them there.
//
// Words. A rank's *segment* lies in memory that all ranks of its host share, and between hosts it is an MPI window. For
// each of the two round sets it holds the *bundle* for the own host (each row once, see BundleLayout), the packed
// messages for the ranks of other hosts (DispatchLayout), the sums for all origins (CombineLayout), and two flags.
//
//   dispatch: quantise every row into the bundle, and into the messages of the other hosts' ranks that want it; raise
//   the
//             flag. Ranks of the host poll it (acquire) and use the rows where they lie. A rank of another host is told
//             where its message lies and how many rows it has, in a message of one line; it fetches with MPI_Rget.
//   combine:  the same with the sums. The origin adds up while it reads its host's ranks' memory; the others' it
//             fetches. A rank's own f32 sums are read where the caller has them.
//
// Messages a rank: one flag each way, whoever reads; and to each rank of another host one line each way and one get.
// Bytes: within a host every row is stored once and never moved: the lines travel when the experts read them. Between
// hosts the messages, once through the segment.
//
// Over TCP a get is served only while the rank that is read from is inside MPI. It need not be in a wait of this
// exchange: readers whose source computes meanwhile wait until it comes back.
//
// When memory may be written again: the argument of direct, with the roles turned. Take two rounds r < q of a set.
// Rank A writes its bundle, messages and flag for q after its combine_end(r), in which it saw every rank's sums of r
// announced, and each rank announced them after its caller had given the rows of r back. Rank P writes its sums for q
// in combine_begin(q), after its dispatch_end(q) saw the announcement of every rank A, which A made after its
// combine_end(r) had added P's sums of r up.

#include <cstring>
#include <memory>
#include <vector>

#include "collectives/algorithms/algorithm.hpp"
#include "collectives/algorithms/announcements.hpp"
#include "collectives/algorithms/bundle.hpp"
#include "collectives/algorithms/host_memory.hpp"
#include "collectives/algorithms/remote_window.hpp"
#include "collectives/algorithms/segment.hpp"
#include "collectives/algorithms/wait_for_peer.hpp"

namespace supernode::collectives {
namespace {

/// Flags, by phase and round set, and regions of a segment.
class PullSegment {
 public:
  explicit PullSegment(const ExchangeSetup& setup)
      : layout_(2 * n_round_sets),
        bundle_(layout_.add_region(BundleLayout(setup.dispatch).most_bytes(setup.config.max_tokens, setup.n_local()))),
        messages_(layout_.add_region(
            setup.dispatch.bytes(setup.max_rows_to(setup.n_remote()), static_cast<std::size_t>(setup.n_remote())))),
        first_rows_(layout_.add_region(sizeof(std::int32_t) * static_cast<std::size_t>(setup.n_ranks))),
        sums_(layout_.add_region(setup.combine.row_stride() * setup.max_rows_in())) {}

  const Segment& layout() const { return layout_; }
  static std::size_t flag(Phase phase, int set) {
    return static_cast<std::size_t>(static_cast<int>(phase) * n_round_sets + set);
  }
  std::size_t bundle(int set) const { return layout_.offset(set, bundle_); }
  std::size_t messages(int set) const { return layout_.offset(set, messages_); }
  /// [ranks] index of the first row of each origin among the sums.
  std::size_t first_rows(int set) const { return layout_.offset(set, first_rows_); }
  std::size_t sums(int set) const { return layout_.offset(set, sums_); }

 private:
  Segment layout_;
  std::size_t bundle_, messages_, first_rows_, sums_;  // regions
};

/// A round's buffers: where what is fetched from other hosts goes.
enum Part : std::size_t { dispatch_in, combine_in, n_parts };

/// Where a rank of another host finds what is for it.
struct Place {
  std::uint64_t offset;
  std::int32_t rows;
};

/// Reading from ranks of other hosts.
class OtherHosts {
 public:
  OtherHosts(const ExchangeSetup& setup, const Communicator& comm, std::size_t segment_bytes, std::byte* memory,
             PlannedBuffers& buffers)
      : window_(setup, comm, memory, segment_bytes), announcements_(setup, comm), buffers_(buffers) {
    for (std::size_t i = 0; i < n_round_sets * n_parts; ++i) gets_.emplace_back(setup.n_ranks);
  }

  /// Says where things lie, and hears it from the others.
  Announcements<Place>& announcements() { return announcements_; }

  /// Fetches everything. arrived(rank, bytes, rows) for each.
  template <class BytesOf, class Arrived>
  void fetch(Phase phase, const Round& round, BytesOf&& bytes_of, Arrived&& arrived) {
    const Part part = phase == Phase::dispatch ? dispatch_in : combine_in;
    std::vector<OwnedRequest>& gets = gets_[static_cast<std::size_t>(round.set) * n_parts + part];
    std::byte* into = buffers_.of_round(round.set, part);
    announcements_.for_ranks([&](int rank) {
      const Place place = announcements_.await(phase, round, rank);
      const std::size_t bytes = bytes_of(place.rows);
      if (bytes > 0) window_.get(rank, place.offset, into, bytes, gets[rank]);
      arrived(rank, into, place.rows);
      into += bytes;
    });
    announcements_.for_ranks(
        [&](int rank) { announcements_.messages().finish_receive(gets[rank], round, name_of(phase), rank); });
  }

 private:
  RemoteWindow window_;
  Announcements<Place> announcements_;
  PlannedBuffers& buffers_;
  std::vector<std::vector<OwnedRequest>> gets_;  // by set and part, [ranks] each
};

class Pull final : public ExchangeAlgorithm {
 public:
  Pull(const ExchangeSetup& setup, const Communicator& comm)
      : setup_(setup),
        segment_(setup),
        memory_(setup, comm, segment_.layout().bytes(), segment_.layout().flags()),
        buffers_(plan_pull(setup)),
        waiting_(setup, comm),
        streams_(setup.n_ranks + 1),
        targets_(setup.n_ranks) {
    if (setup.hosts.hosts() > 1)
      others_ = std::make_unique<OtherHosts>(setup, comm, segment_.layout().bytes(), memory_.own(), buffers_);
  }

  void begin_dispatch(Round& round, const TokensToSend& tokens) override {
    begin_bundle(setup_, round.plan, setup_.host(), memory_.own() + segment_.bundle(round.set), streams_.back(),
                 targets_);
    std::byte* at = memory_.own() + segment_.messages(round.set);
    if (others_) {
      others_->announcements().begin(Phase::dispatch, round);
      others_->announcements().for_ranks([&](int rank) {
        const int rows = round.plan.rows_to(rank);
        streams_[rank] = {at + setup_.dispatch.row_offset(rows, 0)};
        targets_[rank] = {at, nullptr, &streams_[rank]};
        at += setup_.dispatch.bytes(rows);
      });
    }
    write_rows(setup_, round.plan, tokens, targets_, Stores::ordinary);
    raise(Phase::dispatch, round);
    if (others_)
      others_->announcements().for_ranks([&](int rank) {
        others_->announcements().send(Phase::dispatch, round, rank,
                                      {offset_of(targets_[rank].routing), round.plan.rows_to(rank)});
      });
  }

  void end_dispatch(Round& round) override {
    for (const int rank : setup_.hosts.members(setup_.host())) {
      await(Phase::dispatch, round, rank);
      read_bundle(round, rank, memory_.of(rank) + segment_.bundle(round.set));
    }
    if (others_)
      others_->fetch(
          Phase::dispatch, round, [&](int rows) { return setup_.dispatch.bytes(rows); },
          [&](int rank, const std::byte* message, int rows) { round.set_arrived(rank, message, rows); });
  }

  void begin_combine(Round& round) override {
    if (others_) others_->announcements().begin(Phase::combine, round);
    std::memcpy(memory_.own() + segment_.first_rows(round.set), round.first_row.data(),
                sizeof(std::int32_t) * static_cast<std::size_t>(setup_.n_ranks));
    std::byte* const sums = memory_.own() + segment_.sums(round.set);
    for (const int rank : setup_.hosts.members(setup_.host()))
      if (rank != setup_.rank || setup_.config.combine_payload != Payload::f32)
        write_sums(round, rank, sums + setup_.combine.row_offset(round.first_row[rank]), Stores::ordinary);
    raise(Phase::combine, round);
    if (others_)
      others_->announcements().for_ranks([&](int rank) {
        std::byte* const to = sums + setup_.combine.row_offset(round.first_row[rank]);
        write_sums(round, rank, to, Stores::ordinary);
        others_->announcements().send(Phase::combine, round, rank, {offset_of(to), round.rows_from[rank]});
      });
  }

  void end_combine(Round& round) override {
    for (const int rank : setup_.hosts.members(setup_.host())) {
      await(Phase::combine, round, rank);
      std::int32_t first_row = 0;
      std::memcpy(
          &first_row,
          memory_.of(rank) + segment_.first_rows(round.set) + sizeof first_row * static_cast<std::size_t>(setup_.rank),
          sizeof first_row);
      round.sums_from[rank] = memory_.of(rank) + segment_.sums(round.set) + setup_.combine.row_offset(first_row);
    }
    if (setup_.config.combine_payload == Payload::f32) round.keep_own_sums();
    if (others_)
      others_->fetch(
          Phase::combine, round, [&](int rows) { return setup_.combine.bytes(rows); },
          [&](int rank, const std::byte* sums, int) { round.sums_from[rank] = sums; });
  }

  std::size_t allocated_bytes() const override { return memory_.allocated_bytes() + buffers_.allocated_bytes(); }

 private:
  std::uint64_t offset_of(const std::byte* place) const { return static_cast<std::uint64_t>(place - memory_.own()); }

  void raise(Phase phase, const Round& round) {
    memory_.flag(setup_.rank, PullSegment::flag(phase, round.set)).raise(round.number);
  }

  void await(Phase phase, const Round& round, int rank) {
    const Flag& flag = memory_.flag(rank, PullSegment::flag(phase, round.set));
    waiting_.until(
        rank, [&] { return flag.rows_of(round.number) >= 0; },
        [&] { return missing_message(round, name_of(phase), rank); });
  }

  const ExchangeSetup& setup_;
  PullSegment segment_;
  HostMemory memory_;
  PlannedBuffers buffers_;
  ProgressingWait waiting_;
  std::vector<RowStream> streams_;      // [ranks] for other hosts' ranks; the last is the bundle's
  std::vector<RowTarget> targets_;      // [ranks]
  std::unique_ptr<OtherHosts> others_;  // when there are any
};

}  // namespace

BufferPlan plan_pull(const ExchangeSetup& setup) {
  const int remote = setup.n_remote();
  BufferPlan plan;
  plan.segment = PullSegment(setup).layout().bytes() + segment_overhead_bytes;
  plan.of_round.resize(n_parts);
  plan.of_round[dispatch_in] = setup.dispatch.bytes(setup.config.max_tokens) * static_cast<std::size_t>(remote);
  plan.of_round[combine_in] = setup.combine.row_stride() * setup.max_rows_to(remote);
  return plan;
}

std::unique_ptr<ExchangeAlgorithm> make_pull(const ExchangeSetup& setup, const Communicator& comm) {
  return std::make_unique<Pull>(setup, comm);
}

}  // namespace supernode::collectives
