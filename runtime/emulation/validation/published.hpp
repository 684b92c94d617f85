#pragma once
// The published figures, as tables of text. They ship in configs/published.

#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "runtime/core/error.hpp"

namespace supernode::emulation {

/// What a published figure is used for. The data say it, not the code.
enum class FigureKind {
  fit,        ///< constants of the machine files are fitted to it
  predicted,  ///< the model is held against it; no constant is fitted to it
  context,    ///< stands there for the reader; the model says nothing to it
};

/// "fit", "predicted", "context".
std::string_view name_of(FigureKind kind);

/// A CSV table: '#' comment lines, one line of column names, rows of as many fields. Fields hold no commas or quotes.
class PublishedTable {
 public:
  /// @throws UsageError "<source>:<line>: ..." for a row of another width or a table without columns.
  PublishedTable(std::string_view text, std::string source);

  std::size_t rows() const { return rows_.size(); }
  /// @throws UsageError for an unknown column.
  const std::string& text(std::size_t row, std::string_view column) const;
  bool empty(std::size_t row, std::string_view column) const { return text(row, column).empty(); }
  /// @throws UsageError naming line, column and value unless the field is a finite number.
  double number(std::size_t row, std::string_view column) const;
  /// The value that the field's text stands for. @throws UsageError naming line, column and text for any other text.
  template <class Value>
  Value choice(std::size_t row, std::string_view column,
               std::initializer_list<std::pair<std::string_view, Value>> choices) const {
    for (const auto& [name, value] : choices)
      if (text(row, column) == name) return value;
    throw error(row, column, "is unknown");
  }
  /// Of the figures of that row: its column "kind". @throws UsageError naming the line when it is none of the three.
  FigureKind kind(std::size_t row) const;

  /// "<source>:<line of the row>: <column> = '<value>' <why>", for whoever throws it.
  UsageError error(std::size_t row, std::string_view column, std::string_view why) const;

 private:
  std::string source_;
  std::vector<std::string> columns_;
  std::vector<std::vector<std::string>> rows_;
  std::vector<int> lines_;
};

/// The table of that name in configs/published, e.g. "table7". @throws UsageError
PublishedTable load_published(const std::string& name);

}  // namespace supernode::emulation
