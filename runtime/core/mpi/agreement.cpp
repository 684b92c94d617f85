#include "runtime/core/mpi/agreement.hpp"

#include <fmt/format.h>

#include "runtime/core/files.hpp"

namespace supernode {

namespace {

/// "<code> <text>" of an error, or nothing: one text carries the verdict.
std::string packed(const std::exception_ptr& failure) {
  if (!failure) return {};
  try {
    std::rethrow_exception(failure);
  } catch (const Error& error) {
    return fmt::format("{} {}", static_cast<int>(error.code()), error.what());
  } catch (const std::exception& error) {
    return fmt::format("{} {}", static_cast<int>(ExitCode::environment), error.what());
  }
}

[[noreturn]] void throw_packed(const std::string& verdict) {
  throw AgreedError(static_cast<ExitCode>(verdict[0] - '0'), verdict.substr(2));
}

}  // namespace

void agree(const Communicator& comm, const std::exception_ptr& failure) {
  const long long failed = comm.sum(failure ? 1LL : 0LL);
  if (failed == 0) return;
  std::string verdict;
  const std::vector<std::string> all = comm.gather(packed(failure));
  bool same = true;
  std::size_t first = all.size();
  for (std::size_t rank = 0; rank < all.size(); ++rank) {
    if (all[rank].empty()) continue;
    if (first == all.size()) first = rank;
    same = same && all[rank] == all[first];
  }
  if (comm.rank() == 0) {
    verdict = all[first];
    // One rank's own trouble (its host, its shard): say whose.
    const bool everybodys = failed == comm.size() || (failed > 1 && same);
    if (!everybodys) verdict.insert(2, fmt::format("rank {}: ", first));
  }
  throw_packed(comm.broadcast(verdict));
}

void on_root(const Communicator& comm, const std::function<void()>& step) {
  std::exception_ptr failure;
  if (comm.rank() == 0) {
    try {
      step();
    } catch (...) {
      failure = std::current_exception();
    }
  }
  const std::string verdict = comm.broadcast(packed(failure));
  if (!verdict.empty()) throw_packed(verdict);
}

std::string read_file_on_root(const Communicator& comm, const std::string& path) {
  std::string text;
  on_root(comm, [&] { text = read_file(path); });
  return comm.broadcast(std::move(text));
}

}  // namespace supernode
