#include "runtime/core/agreement.hpp"

#include <fmt/format.h>

#include "runtime/core/files.hpp"

namespace supernode {

void agree(const Communicator& comm, const std::exception_ptr& failure) {
  const long long failed = comm.sum(failure ? 1LL : 0LL);
  if (failed == 0) return;

  // "<code> <text>" or nothing, so that one gather carries the verdict.
  std::string mine;
  if (failure) {
    try {
      std::rethrow_exception(failure);
    } catch (const Error& error) {
      mine = fmt::format("{} {}", static_cast<int>(error.code()), error.what());
    } catch (const std::exception& error) {
      mine = fmt::format("{} {}", static_cast<int>(ExitCode::environment), error.what());
    }
  }
  std::string verdict;
  const std::vector<std::string> all = comm.gather(mine);
  for (std::size_t rank = 0; rank < all.size() && verdict.empty(); ++rank) {
    if (all[rank].empty()) continue;
    verdict = all[rank];
    if (failed < comm.size() || comm.size() == 1) {
      // One rank's own trouble (its host, its shard): say whose. A single rank needs no such prefix.
      if (comm.size() > 1) verdict.insert(2, fmt::format("rank {}: ", rank));
    }
  }
  verdict = comm.broadcast(verdict);
  throw AgreedError(static_cast<ExitCode>(verdict[0] - '0'), verdict.substr(2));
}

std::string read_file_on_root(const Communicator& comm, const std::string& path) {
  std::string text;
  std::exception_ptr failure;
  if (comm.rank() == 0) {
    try {
      text = read_file(path);
    } catch (...) {
      failure = std::current_exception();
    }
  }
  // Not agree(): the outcome is rank 0's alone, so its message needs no rank in front.
  std::string status;
  if (failure) {
    try {
      std::rethrow_exception(failure);
    } catch (const Error& error) {
      status = fmt::format("{} {}", static_cast<int>(error.code()), error.what());
    }
  }
  status = comm.broadcast(status);
  if (!status.empty()) throw AgreedError(static_cast<ExitCode>(status[0] - '0'), status.substr(2));
  return comm.broadcast(std::move(text));
}

}  // namespace supernode
