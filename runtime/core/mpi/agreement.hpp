#pragma once
// Errors that one rank finds must reach all of them before the next collective, else the others hang in it.

#include <exception>
#include <functional>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>

#include "runtime/core/error.hpp"
#include "runtime/core/mpi/communicator.hpp"

namespace supernode {

/// What a rank has to say after a step that may have failed on some ranks only. Collective over `comm`.
/// @param failure this rank's error, or null
/// @throws AgreedError on every rank when any rank failed: code and text of the lowest failing rank. Its number stands
/// in front unless all ranks failed, or several with the same text.
void agree(const Communicator& comm, const std::exception_ptr& failure);

/// Runs `step()` (which must not communicate) on every rank and agrees on its outcome. Collective over `comm`.
/// @returns what `step` returns. @throws AgreedError as agree().
template <class Step>
auto collectively(const Communicator& comm, Step&& step) {
  std::exception_ptr failure;
  if constexpr (std::is_void_v<decltype(step())>) {
    try {
      step();
    } catch (...) {
      failure = std::current_exception();
    }
    agree(comm, failure);
  } else {
    std::optional<std::decay_t<decltype(step())>> result;
    try {
      result.emplace(step());
    } catch (...) {
      failure = std::current_exception();
    }
    agree(comm, failure);
    return std::move(*result);
  }
}

/// Runs `step()` on rank 0 only and tells all ranks how it went; for what only rank 0 knows or reads. Collective over
/// `comm`. @throws AgreedError with the text of rank 0's error, on every rank.
void on_root(const Communicator& comm, const std::function<void()>& step);

/// The text of `path`, read by rank 0 and broadcast. Collective over `comm`.
/// @throws AgreedError (usage) on every rank when rank 0 cannot read it.
std::string read_file_on_root(const Communicator& comm, const std::string& path);

}  // namespace supernode
