#pragma once
// Results on disk while a run goes on, so that a job that is ended from outside has not worked for nothing.

#include <cstddef>
#include <fstream>
#include <string>

#include "runtime/core/json.hpp"
#include "runtime/core/new_file.hpp"

namespace supernode::launch {

/// A file of JSON lines beside the run's output, a line for each result, written when it is there. The whole output takes
/// its place at the end. One at a time in a process.
class PartialResults {
 public:
  static std::string path_for(const std::string& output) { return output + ".partial"; }

  /// Opens the file. Until this object goes, SIGTERM (which launchers send to the other ranks when one has died) names
  /// it on stderr in one line before it ends the process. @throws as check_new_file().
  PartialResults(const std::string& output, IfExists if_exists);
  /// Keeps the file, if it has a line, and says in the log where it is, unless remove() was called.
  ~PartialResults();
  PartialResults(const PartialResults&) = delete;
  PartialResults& operator=(const PartialResults&) = delete;

  /// Appends a line and hands it to the system. A disk that is full costs lines and a warning, not the run.
  void add(const Json& row);
  /// The results are elsewhere.
  void remove();

 private:
  std::string path_;
  std::ofstream file_;
  std::size_t rows_ = 0;
  bool removed_ = false;
};

}  // namespace supernode::launch
