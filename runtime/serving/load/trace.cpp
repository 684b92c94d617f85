#include "runtime/serving/load/trace.hpp"

#include <cmath>
#include <utility>

#include <fmt/format.h>

#include "runtime/core/error.hpp"
#include "runtime/serving/load/trace_formats.hpp"

namespace supernode::serving {
namespace {

/// A trace spans days; what spans more than this is in another unit, or no time at all.
constexpr double longest_trace_s = 3 * 366 * 86400.0;

/// Sets the reader on the first line that is not blank. @returns false when there is none.
bool skip_blank_lines(LineReader& lines) {
  while (lines.next())
    if (!lines.blank()) return true;
  return false;
}

/// The name of the format that begins with this line; "" for none.
std::string format_of(std::string_view line) {
  if (line == azure_header) return "azure";
  if (line == burstgpt_header || line == burstgpt_session_header) return "burstgpt";
  return line.starts_with('{') ? "mooncake" : "";
}

/// @param header the file's first line
TraceRequest parse_line(const LineReader& lines, const std::string& format, std::string_view header,
                        const TraceOptions& options) {
  if (format == "azure") return parse_azure_line(lines);
  if (format == "burstgpt") return parse_burstgpt_line(lines, header);
  return parse_mooncake_line(lines, options);
}

}  // namespace

double parse_time_unit(const std::string& name) {
  if (name == "s") return 1;
  if (name == "ms") return 1e-3;
  if (name == "us") return 1e-6;
  throw UsageError(fmt::format("time unit '{}' unknown; known: s, ms, us", name));
}

ZeroOutput parse_zero_output(const std::string& name) {
  if (name == "skip") return ZeroOutput::skip;
  if (name == "one") return ZeroOutput::one;
  throw UsageError(fmt::format("zero output '{}' unknown; known: skip, one", name));
}

Trace parse_trace(std::string_view text, const std::string& source, const TraceOptions& options) {
  LineReader lines(text, source);
  if (!skip_blank_lines(lines)) throw UsageError(fmt::format("{}: the trace is empty", source));
  Trace trace;
  const std::string_view header = trim(lines.line());
  trace.format = format_of(header);
  if (trace.format.empty())
    throw lines.error(fmt::format("neither a Mooncake trace (JSON lines) nor an Azure ({}) or BurstGPT ({}) one",
                                  azure_header, burstgpt_header));
  const bool has_header = trace.format != "mooncake";
  if (!has_header) trace.block_tokens = options.block_tokens;

  double start = 0, previous = 0;
  bool first = true;
  for (bool more = has_header ? lines.next() : true; more; more = lines.next()) {
    if (lines.blank()) continue;
    if (options.max_requests > 0 && trace.requests.size() == options.max_requests) break;
    TraceRequest request = parse_line(lines, trace.format, header, options);
    if (std::exchange(first, false)) start = previous = request.arrival_s;
    if (!std::isfinite(request.arrival_s) || std::fabs(request.arrival_s - start) > longest_trace_s)
      throw lines.error(fmt::format("arrives {:g} s after the first request, which is more than three years",
                                    request.arrival_s - start));
    if (request.arrival_s < previous) throw lines.error("arrives before the request of the line above");
    previous = request.arrival_s;
    if (request.output_tokens == 0) {
      ++trace.without_output;
      if (options.zero_output == ZeroOutput::skip || request.input_tokens == 0) continue;
      request.output_tokens = 1;
    }
    request.arrival_s -= start;
    trace.requests.push_back(std::move(request));
  }
  if (trace.requests.empty()) throw UsageError(fmt::format("{}: the trace holds no request", source));
  return trace;
}

}  // namespace supernode::serving
