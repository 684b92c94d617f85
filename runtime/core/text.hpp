#pragma once
// Taking text apart: lines with their numbers, fields, words, numbers. For all files and options of ours that are text.

#include <charconv>
#include <cmath>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "runtime/core/error.hpp"

namespace supernode {

/// The text without blanks, tabs and carriage returns at both ends.
std::string_view trim(std::string_view text);

/// The parts between separators; "a,,b" has three, "" has one that is empty.
std::vector<std::string_view> split(std::string_view text, char separator);

/// The parts between blanks and tabs, none of them empty.
std::vector<std::string_view> split_words(std::string_view text);

/// The whole text as a number; nothing when it is not one, has anything before or behind it, or is out of T's range.
/// Infinity and NaN are no numbers.
template <class T>
std::optional<T> parse_number(std::string_view text) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  if constexpr (std::is_floating_point_v<T>)
    if (!std::isfinite(value)) return std::nullopt;
  return value;
}

/// The lines of a text one by one, without their ends ("\n" or "\r\n"), with their numbers. A byte order mark in front
/// of the first line is left out.
///   for (LineReader lines(text, path); lines.next();) use(lines.line());
class LineReader {
 public:
  /// @param source the file's name, for messages; `text` outlives the reader.
  LineReader(std::string_view text, std::string source);

  /// Goes on to the next line. False at the end.
  bool next();
  std::string_view line() const { return line_; }
  int number() const { return number_; }  ///< from 1
  /// The line holds blanks only.
  bool blank() const { return trim(line_).empty(); }
  const std::string& source() const { return source_; }

  /// "<source>:<line>: <why>", for whoever throws it.
  UsageError error(std::string_view why) const;

 private:
  std::string_view rest_, line_;
  std::string source_;
  int number_ = 0;
};

}  // namespace supernode
