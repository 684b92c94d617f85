#pragma once
// The published figures, as tables of text. They ship in configs/published.

#include <string>
#include <string_view>
#include <vector>

namespace supernode::emulation {

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

 private:
  std::string source_;
  std::vector<std::string> columns_;
  std::vector<std::vector<std::string>> rows_;
  std::vector<int> lines_;
};

/// The table of that name in configs/published, e.g. "table7". @throws UsageError
PublishedTable load_published(const std::string& name);

}  // namespace supernode::emulation
