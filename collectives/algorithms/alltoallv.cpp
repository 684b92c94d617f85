// alltoallv: the exchange as one would write it on plain MPI, the baseline of the others.
//
//   dispatch: MPI_Ialltoall of row counts, while the rows are quantised straight into one packed send buffer, message
//             after message; then MPI_Ialltoallv of the messages. The rows are used where they arrive.
//   combine:  the counts are known; sums are packed likewise, and one MPI_Ialltoallv brings them home.
//
// Messages a rank: ranks - 1 counts of 4 bytes, and up to ranks - 1 messages each way. Bytes: the messages, each once
// through the send and once through the receive buffer. The collectives are the nonblocking ones for the sake of the
// deadline.

#include <string>
#include <vector>

#include "collectives/algorithms/algorithm.hpp"
#include "collectives/algorithms/lines.hpp"
#include "collectives/algorithms/wait_recorder.hpp"
#include "runtime/core/mpi/mpi_call.hpp"

namespace supernode::collectives {
namespace {

/// Counts and displacements of one direction, in lines.
struct Extents {
  explicit Extents(int ranks) : counts(ranks), displacements(ranks) {}
  /// bytes_of(rank): whole lines.
  template <class BytesOf>
  void set(BytesOf&& bytes_of) {
    std::size_t at = 0;
    for (std::size_t rank = 0; rank < counts.size(); ++rank) {
      const std::size_t bytes = bytes_of(static_cast<int>(rank));
      counts[rank] = lines_of(bytes);
      displacements[rank] = lines_of(at);
      at += bytes;
    }
  }
  std::size_t offset(int rank) const { return static_cast<std::size_t>(displacements[rank]) * line_bytes; }
  std::vector<int> counts, displacements;
};

class Alltoallv final : public ExchangeAlgorithm {
 public:
  Alltoallv(const ExchangeSetup& setup, const Communicator& comm) : setup_(setup), comm_(comm), line_(line_type()) {
    sets_.reserve(n_round_sets);
    for (int i = 0; i < n_round_sets; ++i) sets_.emplace_back(setup);
  }

  void begin_dispatch(RoundBuffers& round, const TokensToSend& tokens) override {
    Set& set = sets_[round.set];
    for (int rank = 0; rank < setup_.n_ranks; ++rank) set.rows_to[rank] = round.plan.rows_to(rank);
    SUPERNODE_MPI(MPI_Ialltoall(set.rows_to.data(), 1, MPI_INT, round.rows_from.data(), 1, MPI_INT, comm_.get(),
                                set.request.out()));
    set.out.set([&](int rank) { return setup_.dispatch.bytes(set.rows_to[rank]); });
    for (int rank = 0; rank < setup_.n_ranks; ++rank) set.to[rank] = set.dispatch_out.data() + set.out.offset(rank);
    write_messages(setup_, round.plan, tokens, set.to, Stores::ordinary);
  }

  void end_dispatch(RoundBuffers& round) override {
    Set& set = sets_[round.set];
    wait(set.request, round, "row counts");
    set.in.set([&](int rank) { return setup_.dispatch.bytes(round.rows_from[rank]); });
    exchange(set, set.dispatch_out, set.dispatch_in);
    wait(set.request, round, "dispatch messages");
    for (int rank = 0; rank < setup_.n_ranks; ++rank)
      round.set_arrived(rank, set.dispatch_in.data() + set.in.offset(rank), round.rows_from[rank]);
  }

  void begin_combine(RoundBuffers& round) override {
    Set& set = sets_[round.set];
    set.out.set([&](int rank) { return setup_.combine.bytes(round.rows_from[rank]); });
    set.in.set([&](int rank) { return setup_.combine.bytes(round.plan.rows_to(rank)); });
    for (int rank = 0; rank < setup_.n_ranks; ++rank)
      write_sums(round, rank, set.combine_out.data() + set.out.offset(rank), Stores::ordinary);
    exchange(set, set.combine_out, set.combine_in);
  }

  void end_combine(RoundBuffers& round) override {
    Set& set = sets_[round.set];
    wait(set.request, round, "combine messages");
    for (int rank = 0; rank < setup_.n_ranks; ++rank)
      round.sums_from[rank] = set.combine_in.data() + set.in.offset(rank);
  }

 private:
  /// Where a round's messages lie; two rounds may be in flight.
  struct Set {
    explicit Set(const ExchangeSetup& setup)
        : dispatch_out(setup.dispatch.bytes(setup.max_rows_out(), setup.n_ranks)),
          dispatch_in(setup.dispatch.bytes(setup.max_rows_in(), setup.n_ranks)),
          combine_out(setup.combine.row_stride() * setup.max_rows_in()),
          combine_in(setup.combine.row_stride() * setup.max_rows_out()),
          rows_to(setup.n_ranks),
          to(setup.n_ranks),
          out(setup.n_ranks),
          in(setup.n_ranks) {}
    Buffer<std::byte> dispatch_out, dispatch_in, combine_out, combine_in;
    std::vector<int> rows_to;
    std::vector<std::byte*> to;
    Extents out, in;
    OwnedRequest request;
  };

  void exchange(Set& set, const Buffer<std::byte>& from, Buffer<std::byte>& into) {
    SUPERNODE_MPI(MPI_Ialltoallv(from.data(), set.out.counts.data(), set.out.displacements.data(), line_.get(),
                                 into.data(), set.in.counts.data(), set.in.displacements.data(), line_.get(),
                                 comm_.get(), set.request.out()));
  }

  void wait(OwnedRequest& request, const RoundBuffers& round, const char* what) {
    wait_for_peer(
        setup_, whole_group, [&] { return completed(*request.out()); },
        [&] {
          return std::string("the all-to-all of ") + what + " of round " + std::to_string(round.number) + " over " +
                 std::to_string(setup_.n_ranks) + " ranks did not complete";
        });
  }

  const ExchangeSetup& setup_;
  const Communicator& comm_;
  OwnedDatatype line_;
  std::vector<Set> sets_;
};

}  // namespace

std::size_t alltoallv_buffer_bytes(const ExchangeSetup& setup) {
  return n_round_sets * (setup.dispatch.bytes(setup.max_rows_out(), setup.n_ranks) +
                         setup.dispatch.bytes(setup.max_rows_in(), setup.n_ranks) +
                         setup.combine.row_stride() * (setup.max_rows_in() + setup.max_rows_out()));
}

std::unique_ptr<ExchangeAlgorithm> make_alltoallv(const ExchangeSetup& setup, const Communicator& comm) {
  return std::make_unique<Alltoallv>(setup, comm);
}

}  // namespace supernode::collectives
