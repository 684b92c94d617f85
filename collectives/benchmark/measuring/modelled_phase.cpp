#include "collectives/benchmark/measuring/modelled_phase.hpp"

#include <numeric>
#include <vector>

#include "runtime/core/mpi/mpi_call.hpp"

namespace supernode::collectives {

ModelTime modelled_phase(const Communicator& comm, const emulation::Machine& machine, Phase phase,
                         std::span<const std::uint64_t> bytes_to, std::span<const std::uint64_t> bytes_from,
                         ModelTime start) {
  const auto n = static_cast<std::size_t>(comm.size());
  const emulation::ExchangeStyle style{.phase = phase, .ranks = comm.size()};
  std::vector<int> dies(n);
  std::iota(dies.begin(), dies.end(), 0);
  const std::vector<double> row(bytes_to.begin(), bytes_to.end());
  const emulation::Departure mine = departure_of(machine, style, row, dies, comm.rank(), start);

  const double sent[] = {mine.begin.value, mine.self_end.value, mine.package_end.value, mine.fabric_end.value};
  constexpr int width = static_cast<int>(std::size(sent));
  std::vector<double> all(n * width);
  SUPERNODE_MPI(MPI_Allgather(sent, width, MPI_DOUBLE, all.data(), width, MPI_DOUBLE, comm.get()));
  std::vector<emulation::Arrival> arrivals(n);
  for (std::size_t from = 0; from < n; ++from) {
    const double* d = all.data() + from * width;
    arrivals[from] = {dies[from], static_cast<double>(bytes_from[from]), {{d[0]}, {d[1]}, {d[2]}, {d[3]}}};
  }
  return completion_of(machine, style, arrivals, comm.rank(), start).end;
}

}  // namespace supernode::collectives
