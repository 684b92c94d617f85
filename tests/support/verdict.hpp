#pragma once
// The communicator of verdicts; between mpi_main.cpp and mpi_fixture.cpp only.

#include <string>

namespace supernode::test {

void open_verdicts();   ///< after MPI_Init; collective
void close_verdicts();  ///< before MPI_Finalize; collective

/// The number of ranks with `failed` != 0. Collective; aborts the job with `test`'s name when a peer does not come.
int count_failed(int failed, const std::string& test);

}  // namespace supernode::test
