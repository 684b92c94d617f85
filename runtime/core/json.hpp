#pragma once
// The JSON type of the project, and parsing with errors that name the file.

#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

// Compiled once, in json.cpp; otherwise every file that uses the type compiles a copy.
extern template class nlohmann::basic_json<nlohmann::ordered_map>;

namespace supernode {

using Json = nlohmann::ordered_json;  ///< keys keep the order in which they were set

/// @param source what the text is, for the message: usually a path. @throws UsageError "<source>: ... at byte N".
Json parse_json(std::string_view text, const std::string& source);

}  // namespace supernode
