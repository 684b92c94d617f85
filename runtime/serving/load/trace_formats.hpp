#pragma once
// One line of each trace format. Inside load/.

#include <string_view>

#include "runtime/core/text.hpp"
#include "runtime/serving/load/trace.hpp"

namespace supernode::serving {

inline constexpr std::string_view azure_header = "TIMESTAMP,ContextTokens,GeneratedTokens";
inline constexpr std::string_view burstgpt_header =
    "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type";
/// Of its later files, which name the session.
inline constexpr std::string_view burstgpt_session_header =
    "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type";

/// The request of the reader's line, its arrival in seconds of the trace's own clock; zero output tokens are let pass.
/// @throws UsageError with file and line
TraceRequest parse_mooncake_line(const LineReader& lines, const TraceOptions& options);
TraceRequest parse_azure_line(const LineReader& lines);
/// @param header which of the two its file has
TraceRequest parse_burstgpt_line(const LineReader& lines, std::string_view header);

}  // namespace supernode::serving
