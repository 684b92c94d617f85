#pragma once
// The program as its users meet it: started from a shell, judged by stdout, stderr and exit code. For tests whose
// target was given the program by supernode_add_command_test().

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <string>
#include <vector>

#include <sys/wait.h>
#include <unistd.h>

#include "runtime/core/files.hpp"
#include "runtime/core/json.hpp"
#include "tests/support/catch.hpp"

namespace supernode::test {

struct Outcome {
  int code = -1;
  std::string out, err;

  /// Our own lines on stderr; a launcher adds some of its own.
  std::vector<std::string> complaints() const {
    std::vector<std::string> lines;
    std::size_t begin = 0;
    while (begin < err.size()) {
      const auto end = std::min(err.find('\n', begin), err.size());
      const std::string line = err.substr(begin, end - begin);
      if (line.starts_with("supernode:")) lines.push_back(line);
      begin = end + 1;
    }
    return lines;
  }
};

/// A folder for this process, gone at its end.
inline const std::filesystem::path& scratch() {
  struct Folder {
    std::filesystem::path path =
        std::filesystem::temp_directory_path() / ("supernode-commands-" + std::to_string(::getpid()));
    Folder() { std::filesystem::create_directories(path); }
    ~Folder() { std::filesystem::remove_all(path); }
  };
  static const Folder folder;
  return folder.path;
}

inline std::string scratch_path(const std::string& name) { return (scratch() / name).string(); }

/// A file in scratch(). @returns its path
inline std::string scratch_file(const std::string& name, const std::string& content) {
  const std::filesystem::path path = scratch() / name;
  std::filesystem::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary) << content;
  return path.string();
}

/// Runs a line of the shell in the root of the sources.
inline Outcome shell(const std::string& line) {
  const std::string out = scratch_path("out"), err = scratch_path("err");
  const int status =
      std::system(("cd " SUPERNODE_SOURCE_DIR " && " + line + " > " + out + " 2> " + err + " < /dev/null").c_str());
  return {WIFEXITED(status) ? WEXITSTATUS(status) : 128, read_file(out), read_file(err)};
}

/// `supernode <arguments>` on ranks of a launcher. @param before in front of the launcher: variables, a tool
/// @param around a program that each rank runs, with the command as its arguments
inline Outcome supernode_on(int ranks, const std::string& arguments, const std::string& before = "",
                            const std::string& around = "") {
  return shell(before + " timeout 120 " SUPERNODE_MPIRUN " " + std::to_string(ranks) + " " SUPERNODE_MPIRUN_FLAGS " " +
               around + " " SUPERNODE_BINARY " " + arguments);
}

/// `supernode <arguments>` without a launcher.
inline Outcome supernode_alone(const std::string& arguments, const std::string& before = "") {
  return shell(before + " timeout 120 " SUPERNODE_BINARY " " + arguments);
}

/// The document of a run that went well.
inline Json document_of(const Outcome& outcome) {
  INFO(outcome.err);
  REQUIRE(outcome.code == 0);
  return parse_json(outcome.out, "stdout");
}

/// One line of ours with `expected` in it, and this exit code.
inline void check_refused(const Outcome& outcome, int code, const std::string& expected) {
  INFO(outcome.err);
  CHECK(outcome.code == code);
  CHECK(outcome.complaints().size() == 1);
  CHECK_THAT(outcome.err, Catch::Matchers::Contains(expected));
}

}  // namespace supernode::test
