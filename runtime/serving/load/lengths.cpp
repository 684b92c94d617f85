#include "runtime/serving/load/lengths.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "runtime/core/error.hpp"
#include "runtime/core/files.hpp"
#include "runtime/core/statistics.hpp"
#include "runtime/core/text.hpp"

namespace supernode::serving {
namespace {

constexpr std::int64_t longest = std::int64_t{1} << 30;

using Names = std::array<std::string_view, 4>;
constexpr Names prompt_names = {"prompt_tokens", "input_length", "ContextTokens", "Request tokens"};
constexpr Names output_names = {"output_tokens", "output_length", "GeneratedTokens", "Response tokens"};

/// The column of a header that holds the lengths. @throws UsageError when none does
std::size_t column_of(const LineReader& header, LengthOf which) {
  const std::vector<std::string_view> columns = split(header.line(), ',');
  if (columns.size() == 1) return 0;
  const Names& names = which == LengthOf::prompt ? prompt_names : output_names;
  for (std::size_t i = 0; i < columns.size(); ++i)
    if (std::find(names.begin(), names.end(), trim(columns[i])) != names.end()) return i;
  throw header.error(fmt::format("no column of lengths: one of {} is wanted", fmt::join(names, ", ")));
}

/// The number of a distribution's text, within [low, 2^30]. Nothing when it is none.
std::optional<double> within(std::string_view text, double low) {
  const std::optional<double> value = parse_number<double>(text);
  return value && *value >= low && *value <= static_cast<double>(longest) ? value : std::nullopt;
}

bool whole(double value) { return value == std::floor(value); }

}  // namespace

std::vector<std::int64_t> parse_lengths(std::string_view text, const std::string& source, LengthOf which) {
  std::vector<std::int64_t> lengths;
  LineReader lines(text, source);
  std::optional<std::size_t> column;
  while (lines.next()) {
    if (lines.blank()) continue;
    const std::vector<std::string_view> fields = split(lines.line(), ',');
    if (!column) {
      if (!parse_number<double>(trim(fields[0]))) {
        column = column_of(lines, which);
        continue;
      }
      column = which == LengthOf::output && fields.size() > 1 ? 1 : 0;
    }
    if (*column >= fields.size()) throw lines.error(fmt::format("field {} is missing", *column + 1));
    const std::optional<std::int64_t> length = parse_number<std::int64_t>(trim(fields[*column]));
    if (!length || *length < 0 || *length > longest)
      throw lines.error(fmt::format("'{}' is no length in tokens", fields[*column]));
    lengths.push_back(std::max<std::int64_t>(*length, 1));
  }
  if (lengths.empty()) throw UsageError(fmt::format("{}: no lengths", source));
  return lengths;
}

Lengths::Lengths(const std::string& text, LengthOf which, const std::string& option) : text_(text) {
  const std::vector<std::string_view> parts = split(text, ':');
  const auto refuse = [&](std::string_view form) {
    throw UsageError(fmt::format("{}: '{}' is not {}", option, text, form));
  };
  const auto argument = [&](std::size_t i, double low) {
    return i < parts.size() ? within(parts[i], low) : std::nullopt;
  };
  if (parts[0] == "fixed") {
    const auto length = argument(1, 1);
    if (parts.size() != 2 || !length || !whole(*length)) refuse("fixed:N with a length N >= 1");
    first_ = *length;
  } else if (parts[0] == "uniform") {
    const auto low = argument(1, 1), high = argument(2, 1);
    if (parts.size() != 3 || !low || !high || !whole(*low) || !whole(*high) || *low > *high)
      refuse("uniform:A:B with lengths 1 <= A <= B");
    kind_ = Kind::uniform;
    first_ = *low;
    second_ = *high;
  } else if (parts[0] == "lognormal") {
    const auto median = argument(1, 1), sigma = argument(2, 0);
    if (parts.size() != 3 || !median || !sigma || *sigma > 10)
      refuse("lognormal:MEDIAN:SIGMA with MEDIAN >= 1 and SIGMA in [0, 10]");
    kind_ = Kind::lognormal;
    first_ = *median;
    second_ = *sigma;
  } else if (text.empty()) {
    refuse("fixed:N, uniform:A:B, lognormal:MEDIAN:SIGMA or a CSV file");
  } else {
    kind_ = Kind::file;
    rows_ = parse_lengths(read_file(text), text, which);
  }
}

std::int64_t Lengths::at(double u) const {
  switch (kind_) {
    case Kind::fixed:
      return static_cast<std::int64_t>(first_);
    case Kind::uniform:
      return static_cast<std::int64_t>(first_ + std::floor(u * (second_ - first_ + 1)));
    case Kind::lognormal: {
      // The ends of a normal distribution are infinite.
      const double z = normal_quantile(std::clamp(u, 1e-15, 1 - 1e-15));
      const double length = std::round(first_ * std::exp(second_ * z));
      return static_cast<std::int64_t>(std::clamp(length, 1.0, static_cast<double>(longest)));
    }
    case Kind::file:
      return rows_[static_cast<std::size_t>(u * static_cast<double>(rows_.size()))];
  }
  return 1;
}

}  // namespace supernode::serving
