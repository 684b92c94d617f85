#include "runtime/serving/load/latency.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "runtime/core/statistics.hpp"

namespace supernode::serving {

void add_latency(Json& results, const std::string& name, std::vector<double> sample_ms,
                 const std::vector<double>& percentiles) {
  const Summary s = summarize(sample_ms);
  std::sort(sample_ms.begin(), sample_ms.end());
  const auto add = [&](const std::string& key, double value) {
    results[key] = sample_ms.empty() ? Json(nullptr) : Json(value);
  };
  add(fmt::format("mean_{}_ms", name), s.mean);
  add(fmt::format("median_{}_ms", name), s.p50);
  add(fmt::format("std_{}_ms", name), s.stddev);
  for (const double p : percentiles) add(fmt::format("p{:g}_{}_ms", p, name), quantile(sample_ms, p / 100));
}

std::string number_line(std::string_view label, const Json& value) {
  return value.is_null() ? fmt::format("{:<44} {:<15}\n", label, "-")
                         : fmt::format("{:<44} {:<15.2f}\n", label, value.get<double>());
}

std::string latency_text(const Json& results, std::string_view title, const std::string& name, const std::string& label,
                         const std::vector<double>& percentiles) {
  std::string text = fmt::format("{:-^60}\n", title);
  text += number_line(fmt::format("Mean {} (ms):", label), results[fmt::format("mean_{}_ms", name)]);
  text += number_line(fmt::format("Median {} (ms):", label), results[fmt::format("median_{}_ms", name)]);
  for (const double p : percentiles)
    text += number_line(fmt::format("P{:g} {} (ms):", p, label), results[fmt::format("p{:g}_{}_ms", p, name)]);
  return text;
}

}  // namespace supernode::serving
