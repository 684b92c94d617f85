#pragma once
// INI text: [section], key = value, '#' or ';' comments. Our own because every complaint must name the line, also the
// later ones about ranges and unknown keys; no packaged parser keeps lines.

#include <string>
#include <string_view>
#include <vector>

namespace supernode {

/// One `key = value` with where it stands. Keys and sections are lower case with '_' for '-'.
struct IniEntry {
  std::string section;  ///< empty before the first [section]
  std::string key;
  std::string value;  ///< without surrounding blanks and comments
  int line = 0;       ///< 1-based
};

/// @param source the file's name, for messages. @throws UsageError "<source>:<line>: ..." for a line that is neither a
/// section, an entry, a comment nor blank; a key given twice in one section; a section name with odd characters.
std::vector<IniEntry> parse_ini(std::string_view text, const std::string& source);

}  // namespace supernode
