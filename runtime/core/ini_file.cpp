#include "runtime/core/ini_file.hpp"

#include <algorithm>
#include <cctype>
#include <map>

#include <fmt/format.h>

#include "runtime/core/text.hpp"

namespace supernode {
namespace {

/// A comment starts a line or follows a blank, so that a '#' inside a value survives.
std::string_view without_comment(std::string_view line) {
  for (std::size_t i = 0; i < line.size(); ++i)
    if ((line[i] == '#' || line[i] == ';') && (i == 0 || line[i - 1] == ' ' || line[i - 1] == '\t'))
      return line.substr(0, i);
  return line;
}

bool is_name(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](unsigned char c) {
    return std::isalnum(c) || c == '_' || c == '-' || c == '.';
  });
}

std::string normalised(std::string_view text) {
  std::string name(text);
  for (char& c : name) c = c == '-' ? '_' : static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return name;
}

}  // namespace

std::vector<IniEntry> parse_ini(std::string_view text, const std::string& source) {
  std::vector<IniEntry> entries;
  std::map<std::pair<std::string, std::string>, int> seen;
  std::string section;
  for (LineReader lines(text, source); lines.next();) {
    const std::string_view line = trim(without_comment(lines.line()));
    if (line.empty()) continue;
    if (line.front() == '[') {
      const std::string_view name = line.back() == ']' ? trim(line.substr(1, line.size() - 2)) : std::string_view{};
      if (!is_name(name)) throw lines.error("a section must be written [name]");
      section = normalised(name);
      continue;
    }
    const auto equals = line.find('=');
    const std::string_view key = equals == std::string_view::npos ? std::string_view{} : trim(line.substr(0, equals));
    if (!is_name(key)) throw lines.error("expected 'key = value' or '[section]'");
    IniEntry entry{section, normalised(key), std::string(trim(line.substr(equals + 1))), lines.number()};
    const auto [other, fresh] = seen.emplace(std::pair(entry.section, entry.key), lines.number());
    if (!fresh) throw lines.error(fmt::format("key '{}' was already given in line {}", entry.key, other->second));
    entries.push_back(std::move(entry));
  }
  return entries;
}

}  // namespace supernode
