#include "runtime/core/log.hpp"

#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include "runtime/core/error.hpp"

namespace supernode {
namespace {

spdlog::level::level_enum to_spdlog(LogLevel level) {
  switch (level) {
    case LogLevel::debug:
      return spdlog::level::debug;
    case LogLevel::info:
      return spdlog::level::info;
    case LogLevel::warning:
      return spdlog::level::warn;
    case LogLevel::error:
      return spdlog::level::err;
    case LogLevel::off:
      return spdlog::level::off;
  }
  return spdlog::level::info;
}

spdlog::logger& logger() {
  static spdlog::logger instance = [] {
    spdlog::logger fresh("supernode", std::make_shared<spdlog::sinks::stderr_sink_mt>());
    fresh.set_pattern("supernode: %l: %v");
    fresh.set_level(spdlog::level::warn);
    return fresh;
  }();
  return instance;
}

}  // namespace

void configure_log(LogLevel level, int rank, const std::string& host) {
  logger().set_level(to_spdlog(level));
  logger().set_pattern(rank < 0 ? "supernode: %l: %v" : fmt::format("%H:%M:%S.%e [{} {}] %l: %v", rank, host));
  logger().flush_on(spdlog::level::debug);
}

LogLevel parse_log_level(const std::string& name) {
  if (name == "debug") return LogLevel::debug;
  if (name == "info") return LogLevel::info;
  if (name == "warning") return LogLevel::warning;
  if (name == "error") return LogLevel::error;
  if (name == "off") return LogLevel::off;
  throw UsageError(fmt::format("log level '{}' is unknown; known: debug info warning error off", name));
}

bool log_enabled(LogLevel level) { return logger().should_log(to_spdlog(level)); }

void write_log(LogLevel level, std::string_view line) { logger().log(to_spdlog(level), line); }

}  // namespace supernode
