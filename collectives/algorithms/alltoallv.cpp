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
#include "collectives/algorithms/wait_for_peer.hpp"
#include "runtime/core/mpi/mpi_call.hpp"

namespace supernode::collectives {
namespace {

/// A round's buffers: packed messages, and where they arrive.
enum Part : std::size_t { dispatch_out, dispatch_in, combine_out, combine_in, n_parts };

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
  Alltoallv(const ExchangeSetup& setup, const Communicator& comm)
      : setup_(setup), comm_(comm), line_(line_type()), buffers_(plan_alltoallv(setup)) {
    sets_.reserve(n_round_sets);
    for (int i = 0; i < n_round_sets; ++i) sets_.emplace_back(setup.n_ranks);
  }

  void begin_dispatch(Round& round, const TokensToSend& tokens) override {
    Set& set = sets_[round.set];
    for (int rank = 0; rank < setup_.n_ranks; ++rank) set.rows_to[rank] = round.plan.rows_to(rank);
    SUPERNODE_MPI(MPI_Ialltoall(set.rows_to.data(), 1, MPI_INT, round.rows_from.data(), 1, MPI_INT, comm_.get(),
                                set.request.out()));
    set.out.set([&](int rank) { return setup_.dispatch.bytes(set.rows_to[rank]); });
    for (int rank = 0; rank < setup_.n_ranks; ++rank) set.to[rank] = buffer(round, dispatch_out) + set.out.offset(rank);
    write_messages(setup_, round.plan, tokens, set.to, Stores::ordinary);
  }

  void end_dispatch(Round& round) override {
    Set& set = sets_[round.set];
    wait(set.request, round, "row counts");
    set.in.set([&](int rank) { return setup_.dispatch.bytes(round.rows_from[rank]); });
    exchange(set, buffer(round, dispatch_out), buffer(round, dispatch_in));
    wait(set.request, round, "dispatch messages");
    for (int rank = 0; rank < setup_.n_ranks; ++rank)
      round.set_arrived(rank, buffer(round, dispatch_in) + set.in.offset(rank), round.rows_from[rank]);
  }

  void begin_combine(Round& round) override {
    Set& set = sets_[round.set];
    set.out.set([&](int rank) { return setup_.combine.bytes(round.rows_from[rank]); });
    set.in.set([&](int rank) { return setup_.combine.bytes(round.plan.rows_to(rank)); });
    for (int rank = 0; rank < setup_.n_ranks; ++rank)
      write_sums(round, rank, buffer(round, combine_out) + set.out.offset(rank), Stores::ordinary);
    exchange(set, buffer(round, combine_out), buffer(round, combine_in));
  }

  void end_combine(Round& round) override {
    Set& set = sets_[round.set];
    wait(set.request, round, "combine messages");
    for (int rank = 0; rank < setup_.n_ranks; ++rank)
      round.sums_from[rank] = buffer(round, combine_in) + set.in.offset(rank);
  }

  std::size_t allocated_bytes() const override { return buffers_.allocated_bytes(); }

 private:
  /// What lies where in a round's buffers; two rounds may be in flight.
  struct Set {
    explicit Set(int ranks) : rows_to(ranks), to(ranks), out(ranks), in(ranks) {}
    std::vector<int> rows_to;
    std::vector<std::byte*> to;
    Extents out, in;
    OwnedRequest request;
  };

  std::byte* buffer(const Round& round, Part part) { return buffers_.of_round(round.set, part); }

  void exchange(Set& set, const std::byte* from, std::byte* into) {
    SUPERNODE_MPI(MPI_Ialltoallv(from, set.out.counts.data(), set.out.displacements.data(), line_.get(), into,
                                 set.in.counts.data(), set.in.displacements.data(), line_.get(), comm_.get(),
                                 set.request.out()));
  }

  void wait(OwnedRequest& request, const Round& round, const char* what) {
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
  PlannedBuffers buffers_;
  std::vector<Set> sets_;
};

}  // namespace

BufferPlan plan_alltoallv(const ExchangeSetup& setup) {
  BufferPlan plan;
  plan.of_round.resize(n_parts);
  plan.of_round[dispatch_out] = setup.dispatch.bytes(setup.max_rows_out(), setup.n_ranks);
  plan.of_round[dispatch_in] = setup.dispatch.bytes(setup.max_rows_in(), setup.n_ranks);
  plan.of_round[combine_out] = setup.combine.row_stride() * setup.max_rows_in();
  plan.of_round[combine_in] = setup.combine.row_stride() * setup.max_rows_out();
  return plan;
}

std::unique_ptr<ExchangeAlgorithm> make_alltoallv(const ExchangeSetup& setup, const Communicator& comm) {
  return std::make_unique<Alltoallv>(setup, comm);
}

}  // namespace supernode::collectives
