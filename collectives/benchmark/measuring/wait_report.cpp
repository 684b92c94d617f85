#include "collectives/benchmark/measuring/wait_report.hpp"

#include <algorithm>
#include <numeric>

#include "runtime/core/mpi/mpi_call.hpp"

namespace supernode::collectives {

void WaitReport::book_common() {
  struct Arrival {
    double seconds;
    int rank;
  };
  std::vector<Arrival> last(common_.size());
  for (std::size_t i = 0; i < common_.size(); ++i) last[i] = {common_[i].arrival_s, comm_->rank()};
  SUPERNODE_MPI(
      MPI_Allreduce(MPI_IN_PLACE, last.data(), count_cast(last.size()), MPI_DOUBLE_INT, MPI_MAXLOC, comm_->get()));
  for (std::size_t i = 0; i < common_.size(); ++i)
    if (last[i].rank != comm_->rank())
      add(last[i].rank, std::clamp(last[i].seconds - common_[i].arrival_s, 0.0, common_[i].waited_s));
  common_.clear();
}

Waits WaitReport::gather(std::span<const std::uint64_t> bytes_to) const {
  const int n = comm_->size();
  Waits waits;
  std::vector<double> for_rank(seconds_for_.size());
  SUPERNODE_MPI(MPI_Allreduce(seconds_for_.data(), for_rank.data(), n, MPI_DOUBLE, MPI_SUM, comm_->get()));
  const auto most = std::max_element(for_rank.begin(), for_rank.end());
  waits.most_for = static_cast<int>(most - for_rank.begin());
  waits.most_for_s = *most;
  waits.total_s = std::accumulate(for_rank.begin(), for_rank.end(), 0.0);

  const std::vector<std::int64_t> row(bytes_to.begin(), bytes_to.end());
  if (comm_->rank() == 0) {
    waits.bytes.resize(row.size() * row.size());
    waits.seconds.resize(row.size() * row.size());
  }
  SUPERNODE_MPI(MPI_Gather(row.data(), n, MPI_INT64_T, waits.bytes.data(), n, MPI_INT64_T, 0, comm_->get()));
  SUPERNODE_MPI(MPI_Gather(seconds_for_.data(), n, MPI_DOUBLE, waits.seconds.data(), n, MPI_DOUBLE, 0, comm_->get()));
  return waits;
}

}  // namespace supernode::collectives
