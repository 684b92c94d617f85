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
//   fetches.
//             A rank's own f32 sums are read where the caller has them.
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

#include <array>
#include <cstring>
#include <memory>
#include <vector>

#include "collectives/algorithms/algorithm.hpp"
#include "collectives/algorithms/announcements.hpp"
#include "collectives/algorithms/bundle.hpp"
#include "collectives/algorithms/host_memory.hpp"
#include "collectives/algorithms/remote_window.hpp"
#include "collectives/algorithms/waiting.hpp"

namespace supernode::collectives {
namespace {

enum Phase { dispatch_phase, combine_phase, n_phases };

constexpr const char* name_of(Phase phase) { return phase == dispatch_phase ? "dispatch" : "combine"; }

int n_remote(const ExchangeSetup& setup) { return setup.n_ranks - setup.n_local(); }

/// Offsets in a segment.
class Segment {
 public:
  explicit Segment(const ExchangeSetup& setup)
      : bundle_bytes_(BundleLayout(setup.dispatch).most_bytes(setup.config.max_tokens, setup.n_local())),
        messages_bytes_(
            setup.dispatch.bytes(setup.max_rows_to(n_remote(setup)), static_cast<std::size_t>(n_remote(setup)))),
        first_rows_bytes_(whole_lines(sizeof(std::int32_t) * static_cast<std::size_t>(setup.n_ranks))),
        sums_bytes_(setup.combine.row_stride() * setup.max_rows_in()) {}

  static std::size_t flags() { return n_phases * n_round_sets; }
  static std::size_t flag(Phase phase, int set) { return static_cast<std::size_t>(phase * n_round_sets + set); }
  std::size_t bundle(int set) const { return sizeof(Flag) * flags() + set_bytes() * static_cast<std::size_t>(set); }
  std::size_t messages(int set) const { return bundle(set) + bundle_bytes_; }
  /// [ranks] index of the first row of each origin among the sums.
  std::size_t first_rows(int set) const { return messages(set) + messages_bytes_; }
  std::size_t sums(int set) const { return first_rows(set) + first_rows_bytes_; }
  std::size_t bytes() const { return bundle(n_round_sets); }

 private:
  std::size_t set_bytes() const { return bundle_bytes_ + messages_bytes_ + first_rows_bytes_ + sums_bytes_; }
  std::size_t bundle_bytes_, messages_bytes_, first_rows_bytes_, sums_bytes_;
};

/// Where a rank of another host finds what is for it.
struct Place {
  std::uint64_t offset;
  std::int32_t rows;
};

/// Reading from ranks of other hosts.
class OtherHosts {
 public:
  OtherHosts(const ExchangeSetup& setup, const Communicator& comm, const Segment& segment, std::byte* memory)
      : window_(setup, comm, memory, segment.bytes()), announcements_(setup, comm) {
    for (auto& of_phase : ways_)
      for (const Phase phase : {dispatch_phase, combine_phase}) of_phase.emplace_back(setup, phase);
  }

  static std::size_t buffer_bytes(const ExchangeSetup& setup, Phase phase) {
    const int remote = n_remote(setup);
    if (phase == combine_phase) return setup.combine.row_stride() * setup.max_rows_to(remote);
    return setup.dispatch.bytes(setup.config.max_tokens) * static_cast<std::size_t>(remote);
  }

  /// Says where things lie, and hears it from the others.
  Announcements<Place>& announcements() { return announcements_; }

  /// Fetches everything. arrived(rank, bytes, rows) for each.
  template <class BytesOf, class Arrived>
  void fetch(Phase phase, const RoundBuffers& round, BytesOf&& bytes_of, Arrived&& arrived) {
    Way& way = ways_[round.set][phase];
    std::byte* into = way.buffer.data();
    announcements_.for_ranks([&](int rank) {
      const Place place = announcements_.await(phase, round, rank);
      const std::size_t bytes = bytes_of(place.rows);
      if (bytes > 0) window_.get(rank, place.offset, into, bytes, way.gets[rank]);
      arrived(rank, into, place.rows);
      into += bytes;
    });
    announcements_.for_ranks(
        [&](int rank) { announcements_.messages().finish_receive(way.gets[rank], round, name_of(phase), rank); });
  }

 private:
  /// Where what is fetched in a phase of a set goes.
  struct Way {
    Way(const ExchangeSetup& setup, Phase phase) : buffer(buffer_bytes(setup, phase)), gets(setup.n_ranks) {}
    Buffer<std::byte> buffer;
    std::vector<OwnedRequest> gets;
  };

  RemoteWindow window_;
  Announcements<Place> announcements_;
  std::array<std::vector<Way>, n_round_sets> ways_;
};

class Pull final : public ExchangeAlgorithm {
 public:
  Pull(const ExchangeSetup& setup, const Communicator& comm)
      : setup_(setup),
        segment_(setup),
        memory_(setup, comm, segment_.bytes(), Segment::flags()),
        waiting_(setup, comm),
        streams_(setup.n_ranks + 1),
        targets_(setup.n_ranks) {
    if (setup.hosts.hosts() > 1) others_ = std::make_unique<OtherHosts>(setup, comm, segment_, memory_.own());
  }

  void begin_dispatch(RoundBuffers& round, const TokensToSend& tokens) override {
    begin_bundle(setup_, round.plan, setup_.host(), memory_.own() + segment_.bundle(round.set), streams_.back(),
                 targets_);
    std::byte* at = memory_.own() + segment_.messages(round.set);
    if (others_) {
      others_->announcements().begin(dispatch_phase, round);
      others_->announcements().for_ranks([&](int rank) {
        const int rows = round.plan.rows_to(rank);
        streams_[rank] = {at + setup_.dispatch.row_offset(rows, 0)};
        targets_[rank] = {at, nullptr, &streams_[rank]};
        at += setup_.dispatch.bytes(rows);
      });
    }
    write_rows(setup_, round.plan, tokens, targets_, Stores::ordinary);
    raise(dispatch_phase, round);
    if (others_)
      others_->announcements().for_ranks([&](int rank) {
        others_->announcements().send(dispatch_phase, round, rank,
                                      {offset_of(targets_[rank].routing), round.plan.rows_to(rank)});
      });
  }

  void end_dispatch(RoundBuffers& round) override {
    for (const int rank : setup_.hosts.members(setup_.host())) {
      await(dispatch_phase, round, rank);
      read_bundle(round, rank, memory_.of(rank) + segment_.bundle(round.set));
    }
    if (others_)
      others_->fetch(
          dispatch_phase, round, [&](int rows) { return setup_.dispatch.bytes(rows); },
          [&](int rank, const std::byte* message, int rows) { round.set_arrived(rank, message, rows); });
  }

  void begin_combine(RoundBuffers& round) override {
    if (others_) others_->announcements().begin(combine_phase, round);
    std::memcpy(memory_.own() + segment_.first_rows(round.set), round.first_row.data(),
                sizeof(std::int32_t) * static_cast<std::size_t>(setup_.n_ranks));
    std::byte* const sums = memory_.own() + segment_.sums(round.set);
    for (const int rank : setup_.hosts.members(setup_.host()))
      if (rank != setup_.rank || setup_.config.combine_payload != Payload::f32)
        write_sums(round, rank, sums + setup_.combine.row_offset(round.first_row[rank]), Stores::ordinary);
    raise(combine_phase, round);
    if (others_)
      others_->announcements().for_ranks([&](int rank) {
        std::byte* const to = sums + setup_.combine.row_offset(round.first_row[rank]);
        write_sums(round, rank, to, Stores::ordinary);
        others_->announcements().send(combine_phase, round, rank, {offset_of(to), round.rows_from[rank]});
      });
  }

  void end_combine(RoundBuffers& round) override {
    for (const int rank : setup_.hosts.members(setup_.host())) {
      await(combine_phase, round, rank);
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
          combine_phase, round, [&](int rows) { return setup_.combine.bytes(rows); },
          [&](int rank, const std::byte* sums, int) { round.sums_from[rank] = sums; });
  }

 private:
  std::uint64_t offset_of(const std::byte* place) const { return static_cast<std::uint64_t>(place - memory_.own()); }

  void raise(Phase phase, const RoundBuffers& round) {
    memory_.flag(setup_.rank, Segment::flag(phase, round.set)).raise(round.number);
  }

  void await(Phase phase, const RoundBuffers& round, int rank) {
    const Flag& flag = memory_.flag(rank, Segment::flag(phase, round.set));
    waiting_.until(
        rank, [&] { return flag.rows_of(round.number) >= 0; },
        [&] { return missing_message(round, name_of(phase), rank); });
  }

  const ExchangeSetup& setup_;
  Segment segment_;
  HostMemory memory_;
  Waiting waiting_;
  std::vector<RowStream> streams_;      // [ranks] for other hosts' ranks; the last is the bundle's
  std::vector<RowTarget> targets_;      // [ranks]
  std::unique_ptr<OtherHosts> others_;  // when there are any
};

}  // namespace

std::size_t pull_buffer_bytes(const ExchangeSetup& setup) {
  return Segment(setup).bytes() + segment_overhead_bytes +
         n_round_sets *
             (OtherHosts::buffer_bytes(setup, dispatch_phase) + OtherHosts::buffer_bytes(setup, combine_phase));
}

std::unique_ptr<ExchangeAlgorithm> make_pull(const ExchangeSetup& setup, const Communicator& comm) {
  return std::make_unique<Pull>(setup, comm);
}

}  // namespace supernode::collectives
