#include "runtime/serving/load/trace.hpp"

#include <charconv>
#include <cstdio>

#include <fmt/format.h>

#include "runtime/core/error.hpp"
#include "runtime/core/json.hpp"

namespace supernode::serving {
namespace {

constexpr int mooncake_block_tokens = 512;
constexpr std::int64_t absurd_length = std::int64_t{1} << 31;

/// The lines of a text one by one, without "\r" and with their numbers.
class Lines {
 public:
  Lines(std::string_view text, const std::string& source) : rest_(text), source_(source) {}
  bool next() {
    if (rest_.empty()) return false;
    const auto end = std::min(rest_.find('\n'), rest_.size());
    line_ = rest_.substr(0, end);
    if (!line_.empty() && line_.back() == '\r') line_.remove_suffix(1);
    rest_.remove_prefix(std::min(end + 1, rest_.size()));
    ++number_;
    return true;
  }
  std::string_view line() const { return line_; }
  UsageError bad(const std::string& why) const { return UsageError(fmt::format("{}:{}: {}", source_, number_, why)); }

 private:
  std::string_view rest_, line_;
  const std::string& source_;
  int number_ = 0;
};

std::int64_t checked_length(const Lines& lines, std::int64_t value, const char* name, std::int64_t least) {
  if (value < least || value >= absurd_length) throw lines.bad(fmt::format("{} of {} is out of range", name, value));
  return value;
}

std::int64_t json_integer(const Lines& lines, const Json& object, const char* key, std::int64_t least) {
  const auto found = object.find(key);
  if (found == object.end()) throw lines.bad(fmt::format("key '{}' is missing", key));
  if (!found->is_number_integer()) throw lines.bad(fmt::format("'{}' is not an integer", key));
  return checked_length(lines, found->get<std::int64_t>(), key, least);
}

TraceRequest parse_mooncake(const Lines& lines) {
  const Json object = Json::parse(lines.line(), nullptr, false);
  if (!object.is_object()) throw lines.bad("not a JSON object (is the file truncated?)");
  TraceRequest request;
  const auto timestamp = object.find("timestamp");
  if (timestamp == object.end() || !timestamp->is_number()) throw lines.bad("key 'timestamp' (ms) is missing");
  request.arrival_s = timestamp->get<double>() / 1e3;
  request.input_tokens = json_integer(lines, object, "input_length", 1);
  request.output_tokens = json_integer(lines, object, "output_length", 1);
  const auto ids = object.find("hash_ids");
  if (ids == object.end()) return request;
  if (!ids->is_array()) throw lines.bad("'hash_ids' is not a list");
  for (const Json& id : *ids) {
    if (!id.is_number_integer()) throw lines.bad("'hash_ids' holds something that is not an integer");
    request.hash_ids.push_back(id.get<std::int64_t>());
  }
  const auto covered = static_cast<std::int64_t>(request.hash_ids.size()) * mooncake_block_tokens;
  if (covered < request.input_tokens)
    throw lines.bad(fmt::format("{} hash_ids of {} tokens do not cover {} input tokens", request.hash_ids.size(),
                                mooncake_block_tokens, request.input_tokens));
  return request;
}

/// Seconds since the epoch of "2023-11-16 18:15:46.6805900"; days by the civil calendar (Hinnant's algorithm).
double parse_timestamp(const Lines& lines, std::string_view text) {
  int year = 0, month = 0, day = 0, hour = 0, minute = 0, used = 0;
  double second = 0;
  const std::string copy(text);
  if (std::sscanf(copy.c_str(), "%4d-%2d-%2d %2d:%2d:%lf%n", &year, &month, &day, &hour, &minute, &second, &used) !=
          6 ||
      used != static_cast<int>(copy.size()) || month < 1 || month > 12 || day < 1 || day > 31 || hour > 23 ||
      minute > 59 || !(second >= 0 && second < 61))
    throw lines.bad(fmt::format("'{}' is not a time like 2023-11-16 18:15:46.6805900", text));
  const int y = year - (month <= 2);
  const int era = y / 400, year_of_era = y - era * 400;
  const int day_of_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;
  const int day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
  const double days = era * 146097.0 + day_of_era - 719468.0;
  return days * 86400 + hour * 3600 + minute * 60 + second;
}

std::int64_t csv_integer(const Lines& lines, std::string_view field, const char* name, std::int64_t least) {
  std::int64_t value = 0;
  const auto [end, status] = std::from_chars(field.data(), field.data() + field.size(), value);
  if (status != std::errc{} || end != field.data() + field.size())
    throw lines.bad(fmt::format("{} '{}' is not an integer", name, field));
  return checked_length(lines, value, name, least);
}

constexpr std::string_view azure_header = "TIMESTAMP,ContextTokens,GeneratedTokens";

TraceRequest parse_azure(const Lines& lines) {
  const std::string_view line = lines.line();
  const auto first = line.find(','), second = line.find(',', first + 1);
  if (first == std::string_view::npos || second == std::string_view::npos ||
      line.find(',', second + 1) != std::string_view::npos)
    throw lines.bad("expected three fields: " + std::string(azure_header));
  TraceRequest request;
  request.arrival_s = parse_timestamp(lines, line.substr(0, first));
  request.input_tokens = csv_integer(lines, line.substr(first + 1, second - first - 1), "ContextTokens", 1);
  request.output_tokens = csv_integer(lines, line.substr(second + 1), "GeneratedTokens", 1);
  return request;
}

}  // namespace

Trace parse_trace(std::string_view text, const std::string& source, std::size_t max_requests) {
  Trace trace;
  if (text.starts_with("\xef\xbb\xbf")) text.remove_prefix(3);  // some editors begin UTF-8 files with this mark
  Lines lines(text, source);
  if (text.starts_with(azure_header)) {
    trace.format = "azure";
    lines.next();
  } else if (text.starts_with("{")) {
    trace.format = "mooncake";
    trace.block_tokens = mooncake_block_tokens;
  } else if (text.empty()) {
    throw UsageError(fmt::format("{}: the trace is empty", source));
  } else {
    throw UsageError(
        fmt::format("{}:1: neither a Mooncake trace (JSON lines) nor an Azure trace ({})", source, azure_header));
  }
  double start = 0, previous = 0;
  while ((max_requests == 0 || trace.requests.size() < max_requests) && lines.next()) {
    if (lines.line().empty()) continue;
    TraceRequest request = trace.format == "azure" ? parse_azure(lines) : parse_mooncake(lines);
    if (trace.requests.empty()) start = previous = request.arrival_s;
    if (request.arrival_s < previous) throw lines.bad("arrives before the request of the line above");
    previous = request.arrival_s;
    request.arrival_s -= start;
    trace.requests.push_back(std::move(request));
  }
  if (trace.requests.empty()) throw UsageError(fmt::format("{}: the trace holds no request", source));
  return trace;
}

}  // namespace supernode::serving
