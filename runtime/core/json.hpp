#pragma once
// The JSON type of the project, parsing with errors that name the file, and text that may hold any bytes.

#include <optional>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

// Compiled once, in json.cpp; otherwise every file that uses the type compiles a copy.
extern template class nlohmann::basic_json<nlohmann::ordered_map>;

namespace supernode {

using Json = nlohmann::ordered_json;  ///< keys keep the order in which they were set

/// @param source what the text is, for the message: usually a path. @throws UsageError "<source>: ... at byte N".
Json parse_json(std::string_view text, const std::string& source);

/// For text that may be something else: nothing when it is not valid JSON.
std::optional<Json> parse_if_json(std::string_view text);

/// `json` as text; `indent` < 0: in one line. Its texts are the user's and may hold any bytes: what is no UTF-8 is
/// replaced as valid_utf8() does.
std::string to_text(const Json& json, int indent = -1);

/// `text` with U+FFFD in place of every byte, or sequence cut short, that is no UTF-8: as it may stand in a document.
std::string valid_utf8(std::string_view text);

}  // namespace supernode
