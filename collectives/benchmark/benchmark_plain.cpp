// MPI_Alltoallv with equal counts, timed as other benchmarks time it.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <climits>
#include <cstring>
#include <thread>

#include "collectives/benchmark/benchmark.hpp"
#include "collectives/benchmark/measuring/figures.hpp"
#include "collectives/benchmark/measuring/injected_fault.hpp"
#include "collectives/benchmark/measuring/wait_report.hpp"
#include "runtime/core/buffer.hpp"
#include "runtime/core/error.hpp"
#include "runtime/core/memory_use.hpp"
#include "runtime/core/mpi/mpi_call.hpp"
#include "runtime/core/mpi/watchdog.hpp"

namespace supernode::collectives {
namespace {

/// Both buffers begin a page, as in other benchmarks: the time of a copy depends on how they lie to each other.
constexpr std::size_t page_bytes = 4096;

/// The byte at `i` of the message from one rank to another.
std::byte pattern(int from, int to, std::size_t i) {
  return static_cast<std::byte>(31 * static_cast<unsigned>(from) + 7 * static_cast<unsigned>(to) + i % 251);
}

class Plain {
 public:
  Plain(const Communicator& comm, std::size_t message_bytes, const BenchmarkOptions& options, double deadline_s)
      : comm_(comm),
        options_(options),
        deadline_s_(deadline_s),
        bytes_(message_bytes),
        counts_(static_cast<std::size_t>(comm.size()), count_cast(message_bytes, "bytes of a message")),
        displacements_(counts_.size()),
        out_(std::max<std::size_t>(1, bytes_ * counts_.size())),
        in_(out_.size()),
        waits_(comm) {
    for (std::size_t rank = 0; rank < counts_.size(); ++rank)
      displacements_[rank] = count_cast(rank * bytes_, "bytes of an all-to-all");
    for (int rank = 0; rank < comm.size(); ++rank)
      for (std::size_t i = 0; i < bytes_; ++i) out_[at(rank, i)] = pattern(comm.rank(), rank, i);
    std::fill_n(in_.data(), in_.size(), std::byte{0});
  }

  double round(int iteration) {
    const Injection fault = fault_in(iteration, options_.injection);
    const bool faulty = fault.kind != Injection::Kind::none;
    const bool corrupt = bytes_ > 0 && corrupts(fault, comm_.rank());
    if (corrupt) out_[0] ^= std::byte{1};
    double arrival = 0;
    const double seconds = timed([&] {
      if (faulty) {
        const WallTime start = wall_now();
        delay_rank(fault, comm_.rank());
        arrival = (wall_now() - start).value;
      }
      stage_ = Stage::exchange;
      SUPERNODE_MPI(MPI_Alltoallv(out_.data(), counts_.data(), displacements_.data(), MPI_CHAR, in_.data(),
                                  counts_.data(), displacements_.data(), MPI_CHAR, comm_.get()));
    });
    if (iteration >= 0 && options_.record_waits) waits_.add_common(arrival, seconds);
    if (faulty) check();
    if (corrupt) out_[0] ^= std::byte{1};
    return seconds;
  }

  double copy() {
    return timed([&] {
      for (std::size_t rank = 0; rank < counts_.size(); ++rank)
        std::memcpy(in_.data() + rank * bytes_, out_.data() + rank * bytes_, bytes_);
    });
  }

  void after_turn() {
    if (options_.record_waits) waits_.book_common();
  }

  void check() {
    if (!options_.check) return;
    for (int rank = 0; rank < comm_.size(); ++rank)
      for (std::size_t i = 0; i < bytes_; ++i) wrong_ += in_[at(rank, i)] != pattern(rank, comm_.rank(), i);
  }

  long long wrong() const { return wrong_; }
  const WaitReport& waits() const { return waits_; }
  std::uint64_t buffer_bytes() const { return out_.size() + in_.size(); }

 private:
  enum class Stage { barrier, on_the_way, exchange };

  /// As any loop around MPI_Alltoallv does it, so that the figures are comparable: MPI's own barrier, then the call.
  /// (A nonblocking barrier that is polled lets the ranks go further apart, which the first to come pays.) Nobody is
  /// timed while others go on, since they wait in the barrier of the next round.
  template <class Step>
  double timed(Step&& step) {
    double seconds = 0;
    watchdog_.guard(
        deadline_s_,
        [&] {
          stage_ = Stage::barrier;
          SUPERNODE_MPI(MPI_Barrier(comm_.get()));
          stage_ = Stage::on_the_way;
          const WallTime start = wall_now();
          step();
          seconds = (wall_now() - start).value;
        },
        [&] { return missing(); });
    return seconds;
  }

  /// Called by the watchdog's thread.
  std::string missing() const {
    const std::string rank = "rank " + std::to_string(comm_.rank());
    if (stage_ == Stage::on_the_way) return rank + ": has not come to MPI_Alltoallv";
    // The first that ends takes all others with it: let one that knows that it did not come say so.
    std::this_thread::sleep_for(std::chrono::milliseconds(500));
    if (stage_ == Stage::barrier) return rank + ": not all ranks came to the barrier before MPI_Alltoallv";
    return rank + ": not all ranks came to MPI_Alltoallv of " + std::to_string(bytes_) + " bytes to each";
  }

  std::size_t at(int rank, std::size_t i) const { return static_cast<std::size_t>(rank) * bytes_ + i; }

  const Communicator& comm_;
  const BenchmarkOptions& options_;
  double deadline_s_;
  std::size_t bytes_;
  std::vector<int> counts_, displacements_;
  Buffer<std::byte, Pages::small, page_bytes> out_, in_;
  WaitReport waits_;
  long long wrong_ = 0;
  std::atomic<Stage> stage_{Stage::barrier};
  Watchdog watchdog_;
};

}  // namespace

BenchmarkResult run_plain_alltoallv(const Communicator& comm, std::uint64_t message_bytes,
                                    const BenchmarkOptions& options, double deadline_s) {
  if (message_bytes * static_cast<std::uint64_t>(comm.size()) > INT_MAX)
    throw UsageError(std::to_string(comm.size()) + " messages of " + std::to_string(message_bytes) +
                     " bytes exceed the counts of MPI_Alltoallv (2 GiB)");
  Plain plain(comm, message_bytes, options, deadline_s);
  plain.round(-1);
  plain.check();
  Contender contenders[2];
  contenders[0].round = [&](int iteration) { return plain.round(iteration); };
  contenders[0].after_turn = [&] { plain.after_turn(); };
  contenders[1].round = [&](int) { return plain.copy(); };
  for (Contender& contender : contenders) warm_up(comm, options.repetition, deadline_s, contender);
  BenchmarkResult result;
  result.resident_bytes = resident_bytes();
  repeat(comm, options.repetition, deadline_s, contenders);
  plain.round(-1);
  plain.check();

  result.algorithm = result.requested = "MPI_Alltoallv";
  result.buffer_bytes = plain.buffer_bytes();
  result.limit_us = contenders[1].us;
  const std::vector<std::uint64_t> bytes(static_cast<std::size_t>(comm.size()), message_bytes);
  fill_figures(comm, contenders[0], bytes, bytes, plain.wrong(), result);
  if (options.record_waits) result.waits = plain.waits().gather(bytes);
  return result;
}

}  // namespace supernode::collectives
