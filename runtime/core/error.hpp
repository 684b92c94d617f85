#pragma once
// The kinds of failure, decided once for the whole project:
//   - our bug            -> panic(): message and abort;
//   - the user's mistake -> UsageError: bad option, configuration or input, exit code 2;
//   - the world failed   -> EnvironmentError (MPI, a file system, a peer that went silent), exit code 3;
//   - a check failed     -> CheckError: wrong results, a tolerance exceeded, exit code 1.
// Expected outcomes (a cache miss, a full pool) are return values and never exceptions.

#include <source_location>
#include <stdexcept>
#include <string>
#include <string_view>

namespace supernode {

/// Process exit codes, the same on all ranks.
enum class ExitCode : int { good = 0, check_failed = 1, usage = 2, environment = 3 };

/// Base of every error that ends a command. `what()` is one line, ready for the user.
class Error : public std::runtime_error {
 public:
  Error(ExitCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  ExitCode code() const noexcept { return code_; }

 private:
  ExitCode code_;
};

/// Wrong usage, configuration or input. Say what and where: the option, the file and line, the value, the choices.
class UsageError : public Error {
 public:
  explicit UsageError(const std::string& message) : Error(ExitCode::usage, message) {}
};

/// The environment failed: MPI, files that cannot be written, memory, a peer that does not answer.
class EnvironmentError : public Error {
 public:
  explicit EnvironmentError(const std::string& message) : Error(ExitCode::environment, message) {}
};

/// A result is wrong or misses its tolerance.
class CheckError : public Error {
 public:
  explicit CheckError(const std::string& message) : Error(ExitCode::check_failed, message) {}
};

/// A wait ran out of time. The message names the rank that waited and the peer it waited for.
class TimeoutError : public EnvironmentError {
 public:
  using EnvironmentError::EnvironmentError;
};

/// An error that every rank of the world has been told of (see agreement.hpp): all ranks throw it with the same text
/// and code, so the program can leave MPI in order instead of aborting it.
class AgreedError : public Error {
 public:
  using Error::Error;
};

/// Ends the process: an invariant of ours does not hold. Never for anything a user can cause.
[[noreturn]] void panic(std::string_view message, std::source_location where = std::source_location::current());

/// panic() unless `holds`; for cheap invariants, checked in every build.
inline void expect(bool holds, std::string_view message, std::source_location where = std::source_location::current()) {
  if (!holds) panic(message, where);
}

}  // namespace supernode
