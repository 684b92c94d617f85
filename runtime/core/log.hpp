#pragma once
// Log lines on stderr, each with its rank. stdout belongs to results.

#include <string>
#include <string_view>
#include <utility>

#include <fmt/format.h>

namespace supernode {

enum class LogLevel { debug, info, warning, error, off };

/// Before the first line; `rank` -1 means outside MPI.
void configure_log(LogLevel level, int rank, const std::string& host);
/// "debug", "info", "warning", "error", "off". @throws UsageError listing them.
LogLevel parse_log_level(const std::string& name);

bool log_enabled(LogLevel level);
void write_log(LogLevel level, std::string_view line);

/// log(LogLevel::info, "rank {} joined", rank); arguments are formatted only when the level is on.
template <class... Args>
void log(LogLevel level, fmt::format_string<Args...> format, Args&&... args) {
  if (log_enabled(level)) write_log(level, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace supernode
