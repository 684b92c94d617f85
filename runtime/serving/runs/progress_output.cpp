#include "runtime/serving/runs/progress_output.hpp"

#include <cstdio>

#include <unistd.h>

#include "runtime/core/log.hpp"

namespace supernode::serving {

ProgressOutput::ProgressOutput(RunWatch& watch, ProgressMode mode, std::uint64_t total) {
  constexpr double on_terminal_s = 0.5, in_log_s = 10;
  if (mode == ProgressMode::automatic) mode = ::isatty(STDERR_FILENO) ? ProgressMode::line : ProgressMode::log;
  if (mode == ProgressMode::line) {
    watch.report(Progress(wall_now(), on_terminal_s, total), [this](const std::string& line) {
      on_line_ = true;
      std::fprintf(stderr, "\r%s\033[K", line.c_str());
      std::fflush(stderr);
    });
  } else if (mode == ProgressMode::log && log_enabled(LogLevel::info)) {
    watch.report(Progress(wall_now(), in_log_s, total),
                 [](const std::string& line) { log(LogLevel::info, "{}", line); });
  }
}

ProgressOutput::~ProgressOutput() {
  if (on_line_) std::fputs("\r\033[K", stderr);
}

}  // namespace supernode::serving
