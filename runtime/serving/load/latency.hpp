#pragma once
// A sample of latencies as results and their text have it. Pure.

#include <string>
#include <string_view>
#include <vector>

#include "runtime/core/json.hpp"

namespace supernode::serving {

/// Sets mean_x_ms, median_x_ms, std_x_ms and p99_x_ms for each percentile, as vLLM names them for x = `name`; null for an
/// empty sample. @param percentiles in [0, 100]
void add_latency(Json& results, const std::string& name, std::vector<double> sample_ms,
                 const std::vector<double>& percentiles);

/// A line of text for people: a number or "-", and what it is.
std::string number_line(std::string_view label, const Json& value);

/// What add_latency() set, under a title. @param label of the figures: "TTFT"
std::string latency_text(const Json& results, std::string_view title, const std::string& name, const std::string& label,
                         const std::vector<double>& percentiles);

}  // namespace supernode::serving
