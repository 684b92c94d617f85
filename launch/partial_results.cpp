#include "launch/partial_results.hpp"

#include <algorithm>
#include <array>
#include <csignal>
#include <filesystem>
#include <string_view>

#include <fmt/format.h>
#include <unistd.h>

#include "runtime/core/error.hpp"
#include "runtime/core/log.hpp"

namespace supernode::launch {
namespace {

// A handler may call almost nothing: its text is made beforehand.
std::array<char, 1024> last_words;
std::size_t last_words_length = 0;

extern "C" void speak_and_end(int signal) {
  const ssize_t ignored = ::write(STDERR_FILENO, last_words.data(), last_words_length);
  static_cast<void>(ignored);
  std::signal(signal, SIG_DFL);
  std::raise(signal);
}

}  // namespace

PartialResults::PartialResults(const std::string& output, IfExists if_exists) : path_(path_for(output)) {
  check_new_file(path_, if_exists);
  file_.open(path_, std::ios::trunc);
  if (!file_) throw EnvironmentError(fmt::format("cannot write '{}'", path_));
  const std::string text = fmt::format(
      "supernode: rank 0: told to end (SIGTERM), as when a rank has died; what was completed is in '{}'\n", path_);
  last_words_length = std::min(text.size(), last_words.size());
  std::copy_n(text.begin(), last_words_length, last_words.begin());
  std::signal(SIGTERM, speak_and_end);
}

PartialResults::~PartialResults() {
  std::signal(SIGTERM, SIG_DFL);
  if (removed_) return;
  if (rows_ == 0)
    remove();
  else
    log(LogLevel::warning, "{} results of a run that did not end are in '{}'", rows_, path_);
}

void PartialResults::add(const Json& row) {
  const bool good = file_.good();
  file_ << row.dump() << '\n' << std::flush;
  if (file_.good())
    ++rows_;
  else if (good)
    log(LogLevel::warning, "cannot write '{}': results that follow are only in the output", path_);
}

void PartialResults::remove() {
  file_.close();
  std::error_code ignored;
  std::filesystem::remove(path_, ignored);
  removed_ = true;
}

}  // namespace supernode::launch
