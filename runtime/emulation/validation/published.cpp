#include "runtime/emulation/validation/published.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>

#include <fmt/format.h>

#include "runtime/core/config_path.hpp"
#include "runtime/core/error.hpp"
#include "runtime/core/files.hpp"

namespace supernode::emulation {

PublishedTable::PublishedTable(std::string_view text, std::string source) : source_(std::move(source)) {
  int number = 0;
  while (!text.empty()) {
    const auto end = std::min(text.find('\n'), text.size());
    std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    ++number;
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.empty() || line.front() == '#') continue;
    std::vector<std::string> fields;
    for (std::size_t begin = 0; begin <= line.size();) {
      const auto comma = std::min(line.find(',', begin), line.size());
      fields.emplace_back(line.substr(begin, comma - begin));
      begin = comma + 1;
    }
    if (columns_.empty()) {
      columns_ = std::move(fields);
      continue;
    }
    if (fields.size() != columns_.size())
      throw UsageError(fmt::format("{}:{}: {} fields, {} expected", source_, number, fields.size(), columns_.size()));
    rows_.push_back(std::move(fields));
    lines_.push_back(number);
  }
  if (columns_.empty()) throw UsageError(fmt::format("{}: no column names", source_));
}

const std::string& PublishedTable::text(std::size_t row, std::string_view column) const {
  const auto found = std::find(columns_.begin(), columns_.end(), column);
  if (found == columns_.end()) throw UsageError(fmt::format("{}: no column '{}'", source_, column));
  return rows_.at(row)[static_cast<std::size_t>(found - columns_.begin())];
}

double PublishedTable::number(std::size_t row, std::string_view column) const {
  const std::string& field = text(row, column);
  double value = 0;
  const auto [end, status] = std::from_chars(field.data(), field.data() + field.size(), value);
  if (status != std::errc{} || end != field.data() + field.size() || !std::isfinite(value))
    throw UsageError(fmt::format("{}:{}: {} = '{}' is not a number", source_, lines_[row], column, field));
  return value;
}

PublishedTable load_published(const std::string& name) {
  const std::string path = config_path("published", name, ".csv");
  return {read_file(path), path};
}

}  // namespace supernode::emulation
