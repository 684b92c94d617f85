#include "runtime/emulation/validation/published.hpp"

#include <algorithm>
#include <optional>

#include <fmt/format.h>

#include "runtime/core/config_path.hpp"
#include "runtime/core/files.hpp"
#include "runtime/core/text.hpp"

namespace supernode::emulation {

std::string_view name_of(FigureKind kind) {
  switch (kind) {
    case FigureKind::fit:
      return "fit";
    case FigureKind::predicted:
      return "predicted";
    case FigureKind::context:
      return "context";
  }
  return "";
}

PublishedTable::PublishedTable(std::string_view text, std::string source) : source_(std::move(source)) {
  for (LineReader lines(text, source_); lines.next();) {
    if (lines.blank() || lines.line().front() == '#') continue;
    const std::vector<std::string_view> parts = split(lines.line(), ',');
    std::vector<std::string> fields(parts.begin(), parts.end());
    if (columns_.empty()) {
      columns_ = std::move(fields);
      continue;
    }
    if (fields.size() != columns_.size())
      throw lines.error(fmt::format("{} fields, {} expected", fields.size(), columns_.size()));
    rows_.push_back(std::move(fields));
    lines_.push_back(lines.number());
  }
  if (columns_.empty()) throw UsageError(fmt::format("{}: no column names", source_));
}

const std::string& PublishedTable::text(std::size_t row, std::string_view column) const {
  const auto found = std::find(columns_.begin(), columns_.end(), column);
  if (found == columns_.end()) throw UsageError(fmt::format("{}: no column '{}'", source_, column));
  return rows_.at(row)[static_cast<std::size_t>(found - columns_.begin())];
}

double PublishedTable::number(std::size_t row, std::string_view column) const {
  const std::optional<double> value = parse_number<double>(text(row, column));
  if (!value) throw error(row, column, "is not a number");
  return *value;
}

FigureKind PublishedTable::kind(std::size_t row) const {
  for (const FigureKind kind : {FigureKind::fit, FigureKind::predicted, FigureKind::context})
    if (text(row, "kind") == name_of(kind)) return kind;
  throw error(row, "kind", "is none of fit, predicted, context");
}

UsageError PublishedTable::error(std::size_t row, std::string_view column, std::string_view why) const {
  return UsageError(fmt::format("{}:{}: {} = '{}' {}", source_, lines_.at(row), column, text(row, column), why));
}

PublishedTable load_published(const std::string& name) {
  const std::string path = config_path("published", name, ".csv");
  return {read_file(path), path};
}

}  // namespace supernode::emulation
