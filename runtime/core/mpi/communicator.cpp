#include "runtime/core/mpi/communicator.hpp"

#include <numeric>

#include "runtime/core/mpi/mpi_call.hpp"

namespace supernode {

Communicator::Communicator(OwnedComm comm) : comm_(std::move(comm)) {
  if (!comm_) return;
  SUPERNODE_MPI(MPI_Comm_set_errhandler(comm_.get(), MPI_ERRORS_RETURN));
  SUPERNODE_MPI(MPI_Comm_rank(comm_.get(), &rank_));
  SUPERNODE_MPI(MPI_Comm_size(comm_.get(), &size_));
}

Communicator Communicator::world() {
  OwnedComm comm;
  SUPERNODE_MPI(MPI_Comm_dup(MPI_COMM_WORLD, comm.out()));
  return Communicator(std::move(comm));
}

Communicator Communicator::duplicate() const {
  OwnedComm comm;
  SUPERNODE_MPI(MPI_Comm_dup(get(), comm.out()));
  return Communicator(std::move(comm));
}

Communicator Communicator::split(int color, int key) const {
  OwnedComm comm;
  SUPERNODE_MPI(MPI_Comm_split(get(), color, key, comm.out()));
  return Communicator(std::move(comm));
}

Communicator Communicator::split_by_host() const {
  OwnedComm comm;
  SUPERNODE_MPI(MPI_Comm_split_type(get(), MPI_COMM_TYPE_SHARED, rank_, MPI_INFO_NULL, comm.out()));
  return Communicator(std::move(comm));
}

void Communicator::barrier() const { SUPERNODE_MPI(MPI_Barrier(get())); }

std::string Communicator::broadcast(std::string text, int root) const {
  unsigned long long length = text.size();
  SUPERNODE_MPI(MPI_Bcast(&length, 1, MPI_UNSIGNED_LONG_LONG, root, get()));
  text.resize(length);
  constexpr std::size_t chunk = std::size_t{1} << 30;
  for (std::size_t done = 0; done < text.size(); done += chunk)
    SUPERNODE_MPI(
        MPI_Bcast(text.data() + done, count_cast(std::min(chunk, text.size() - done)), MPI_CHAR, root, get()));
  return text;
}

std::vector<std::string> Communicator::gather(const std::string& text, int root) const {
  const int length = count_cast(text.size(), "gathered text");
  const bool here = rank_ == root;
  std::vector<int> lengths(here ? static_cast<std::size_t>(size_) : 0);
  SUPERNODE_MPI(MPI_Gather(&length, 1, MPI_INT, lengths.data(), 1, MPI_INT, root, get()));
  std::vector<int> offsets(lengths.size());
  std::exclusive_scan(lengths.begin(), lengths.end(), offsets.begin(), 0);
  std::string joined(here ? static_cast<std::size_t>(offsets.back() + lengths.back()) : 0, '\0');
  SUPERNODE_MPI(
      MPI_Gatherv(text.data(), length, MPI_CHAR, joined.data(), lengths.data(), offsets.data(), MPI_CHAR, root, get()));
  std::vector<std::string> texts;
  for (std::size_t i = 0; i < lengths.size(); ++i)
    texts.push_back(joined.substr(static_cast<std::size_t>(offsets[i]), static_cast<std::size_t>(lengths[i])));
  return texts;
}

namespace {
template <class T>
T reduce(const Communicator& comm, T value, MPI_Datatype type, MPI_Op op) {
  T result{};
  SUPERNODE_MPI(MPI_Allreduce(&value, &result, 1, type, op, comm.get()));
  return result;
}
}  // namespace

double Communicator::max(double value) const { return reduce(*this, value, MPI_DOUBLE, MPI_MAX); }
double Communicator::sum(double value) const { return reduce(*this, value, MPI_DOUBLE, MPI_SUM); }
long long Communicator::max(long long value) const { return reduce(*this, value, MPI_LONG_LONG, MPI_MAX); }
long long Communicator::sum(long long value) const { return reduce(*this, value, MPI_LONG_LONG, MPI_SUM); }

}  // namespace supernode
