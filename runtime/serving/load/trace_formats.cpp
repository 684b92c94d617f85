#include "runtime/serving/load/trace_formats.hpp"

#include <cmath>

#include <fmt/format.h>

#include "runtime/core/json.hpp"
#include "runtime/serving/load/timestamp.hpp"

namespace supernode::serving {
namespace {

constexpr std::int64_t absurd_length = std::int64_t{1} << 31;

std::int64_t checked_length(const LineReader& lines, std::int64_t value, std::string_view name, std::int64_t least) {
  if (value < least || value >= absurd_length) throw lines.error(fmt::format("{} of {} is out of range", name, value));
  return value;
}

std::int64_t json_integer(const LineReader& lines, const Json& object, const char* key, std::int64_t least) {
  const auto found = object.find(key);
  if (found == object.end()) throw lines.error(fmt::format("key '{}' is missing", key));
  if (!found->is_number_integer()) throw lines.error(fmt::format("'{}' is not an integer", key));
  // A number beyond 64 bits with sign is a float or an unsigned one in JSON; as a double it is out of range, too.
  const double value = found->get<double>();
  if (std::fabs(value) > 1e18) throw lines.error(fmt::format("{} of {} is out of range", key, found->dump()));
  return checked_length(lines, found->get<std::int64_t>(), key, least);
}

std::int64_t csv_integer(const LineReader& lines, std::string_view field, std::string_view name, std::int64_t least) {
  const auto value = parse_number<std::int64_t>(trim(field));
  if (!value) throw lines.error(fmt::format("{} '{}' is not an integer", name, field));
  return checked_length(lines, *value, name, least);
}

/// The fields of a CSV line, as many as its header has.
std::vector<std::string_view> csv_fields(const LineReader& lines, std::string_view header) {
  std::vector<std::string_view> fields = split(lines.line(), ',');
  if (const std::size_t expected = split(header, ',').size(); fields.size() != expected)
    throw lines.error(fmt::format("expected {} fields: {}", expected, header));
  return fields;
}

std::int64_t blocks_of(std::int64_t tokens, std::int64_t block) { return (tokens + block - 1) / block; }

/// The ids stand for whole blocks and the rest of the prompt.
void check_block_count(const LineReader& lines, std::int64_t tokens, std::int64_t ids, int block_tokens) {
  const std::int64_t wanted = blocks_of(tokens, block_tokens);
  if (ids == wanted) return;
  // The least power of two that fits is what a trace would use; some have other sizes.
  std::int64_t fits = 1;
  while (fits < tokens && blocks_of(tokens, fits) > ids) fits *= 2;
  if (ids > 0 && blocks_of(tokens, fits) != ids) fits = (tokens + ids - 1) / ids;
  const bool other = ids > 0 && blocks_of(tokens, fits) == ids;
  throw lines.error(fmt::format(
      "{} hash_ids for {} input tokens, but blocks of {} tokens take {}{}", ids, tokens, block_tokens, wanted,
      other ? fmt::format("; blocks of {} would fit (--trace-block-tokens {})", fits, fits) : std::string()));
}

}  // namespace

TraceRequest parse_mooncake_line(const LineReader& lines, const TraceOptions& options) {
  const Json object = Json::parse(lines.line(), nullptr, false);
  if (!object.is_object()) throw lines.error("not a JSON object (is the file truncated?)");
  TraceRequest request;
  const auto timestamp = object.find("timestamp");
  if (timestamp == object.end() || !timestamp->is_number())
    throw lines.error("key 'timestamp' is missing, or no number");
  const double time = timestamp->get<double>();
  if (options.time_unit_s < 1 && time != std::floor(time))
    throw lines.error(fmt::format(
        "timestamp {} is no whole number of milli- or microseconds (--trace-time-unit s for seconds)", time));
  request.arrival_s = time * options.time_unit_s;
  request.input_tokens = json_integer(lines, object, "input_length", 1);
  request.output_tokens = json_integer(lines, object, "output_length", 0);
  const auto ids = object.find("hash_ids");
  if (ids == object.end()) return request;
  if (!ids->is_array()) throw lines.error("'hash_ids' is not a list");
  for (const Json& id : *ids) {
    if (!id.is_number_integer()) throw lines.error("'hash_ids' holds something that is not an integer");
    request.hash_ids.push_back(id.get<std::int64_t>());
  }
  check_block_count(lines, request.input_tokens, static_cast<std::int64_t>(ids->size()), options.block_tokens);
  return request;
}

TraceRequest parse_azure_line(const LineReader& lines) {
  const std::vector<std::string_view> fields = csv_fields(lines, azure_header);
  const std::optional<double> time = parse_timestamp(trim(fields[0]));
  if (!time) throw lines.error(fmt::format("'{}' is not a time like 2023-11-16 18:15:46.6805900", fields[0]));
  return {*time,
          csv_integer(lines, fields[1], "ContextTokens", 1),
          csv_integer(lines, fields[2], "GeneratedTokens", 0),
          {}};
}

TraceRequest parse_burstgpt_line(const LineReader& lines, std::string_view header) {
  const std::vector<std::string_view> fields = csv_fields(lines, header);
  const auto time = parse_number<double>(trim(fields[0]));
  if (!time) throw lines.error(fmt::format("Timestamp '{}' is no number of seconds", fields[0]));
  const std::size_t tokens = header == burstgpt_session_header ? 4 : 2;
  const std::int64_t output = csv_integer(lines, fields[tokens + 1], "Response tokens", 0);
  // Requests that failed are rows with zeros.
  return {*time, csv_integer(lines, fields[tokens], "Request tokens", output == 0 ? 0 : 1), output, {}};
}

}  // namespace supernode::serving
