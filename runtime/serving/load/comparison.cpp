#include "runtime/serving/load/comparison.hpp"

#include <algorithm>
#include <array>
#include <utility>

#include <fmt/format.h>

#include "runtime/core/statistics.hpp"
#include "runtime/serving/load/metrics.hpp"

namespace supernode::serving {
namespace {

/// Lists of requests, which have no mean.
bool is_list_of_requests(const std::string& key) { return key == "requests" || key == "failures"; }

/// The mean of one place in several documents: numbers by number, objects key by key, lists of one length item by item,
/// anything else the first one's.
Json mean_of(const std::vector<const Json*>& values) {
  const Json& first = *values.front();
  if (first.is_object()) {
    Json object = Json::object();
    // A key may come with a later document only, as a reason of misses.
    for (const Json* value : values)
      for (const auto& entry : value->items()) {
        if (object.contains(entry.key()) || is_list_of_requests(entry.key())) continue;
        std::vector<const Json*> at;
        for (const Json* other : values)
          if (other->contains(entry.key()) && !(*other)[entry.key()].is_null()) at.push_back(&(*other)[entry.key()]);
        object[entry.key()] = at.empty() ? Json(nullptr) : mean_of(at);
      }
    return object;
  }
  if (first.is_array()) {
    const bool alike = std::all_of(values.begin(), values.end(), [&](const Json* value) {
      return value->is_array() && value->size() == first.size();
    });
    if (!alike) return first;
    Json array = Json::array();
    for (std::size_t i = 0; i < first.size(); ++i) {
      std::vector<const Json*> at;
      for (const Json* value : values) at.push_back(&(*value)[i]);
      array.push_back(mean_of(at));
    }
    return array;
  }
  if (!first.is_number()) return first;
  const bool equal = std::all_of(values.begin(), values.end(), [&](const Json* value) { return *value == first; });
  if (equal) return first;  // a count stays a count
  double sum = 0;
  for (const Json* value : values) sum += value->get<double>();
  return sum / static_cast<double>(values.size());
}

Json intervals_of(const std::vector<Json>& runs) {
  Json intervals = Json::object();
  for (const auto& entry : runs.front().items()) {
    if (!entry.value().is_number()) continue;
    std::vector<double> sample;
    for (const Json& run : runs)
      if (run.contains(entry.key()) && run[entry.key()].is_number()) sample.push_back(run[entry.key()].get<double>());
    if (sample.size() == runs.size()) intervals[entry.key()] = mean_ci95(sample);
  }
  return intervals;
}

struct Figure {
  std::string key, label;
};

const std::array<Figure, 4> kFigures{{{"mean_ttft_ms", "TTFT (ms)"},
                                      {"mean_tpot_ms", "TPOT (ms)"},
                                      {"mean_itl_ms", "ITL (ms)"},
                                      {"output_throughput", "output (tok/s)"}}};

/// The figures that are compared, by the names of the comparison.
Json compared_figures(const Json& results) {
  Json figures = Json::object();
  for (const Figure& figure : kFigures) figures[figure.key] = results[figure.key];
  if (results.contains("steady"))
    for (const char* key : {"tpot_ms", "iteration_ms", "output_tokens_per_s_per_npu", "prefill_tokens_per_s_per_npu"})
      if (results["steady"].contains(key)) figures[std::string("steady_") + key] = results["steady"][key];
  return figures;
}

/// What of `results`' intervals belongs to these figures.
void add_intervals(Json& entry, const Json& figures, const Json& results) {
  if (!results.contains("ci95")) return;
  entry["ci95"] = Json::object();
  for (const auto& figure : figures.items())
    if (results["ci95"].contains(figure.key())) entry["ci95"][figure.key()] = results["ci95"][figure.key()];
}

std::string number(const Json& value, const char* form) {
  return value.is_null() ? "-" : fmt::format(fmt::runtime(form), value.get<double>());
}

/// The keys of a comparison that have a column, with their headings.
std::vector<Figure> columns_of(const Json& figures) {
  std::vector<Figure> columns;
  const bool steady = figures.contains("steady_iteration_ms");
  for (const Figure& figure : kFigures)
    if (!steady) columns.push_back(figure);
  if (figures.contains("steady_tpot_ms")) columns.push_back({"steady_tpot_ms", "TPOT (ms)"});
  if (steady) columns.push_back({"steady_iteration_ms", "step (ms)"});
  for (const char* key : {"steady_output_tokens_per_s_per_npu", "steady_prefill_tokens_per_s_per_npu"})
    if (figures.contains(key)) columns.push_back({key, "tok/s by NPU"});
  return columns;
}

}  // namespace

Json combine_repeats(std::vector<Json> runs) {
  if (runs.size() == 1) return std::move(runs.front());
  std::vector<const Json*> all;
  for (const Json& run : runs) all.push_back(&run);
  Json results = mean_of(all);
  name_slowest_die(results);  // a name has no mean
  results["ci95"] = intervals_of(runs);
  results["repeats"] = std::move(runs);
  return results;
}

std::string intervals_text(const Json& results) {
  if (!results.contains("repeats")) return "";
  std::string text =
      fmt::format("{:-^60}\n", fmt::format(" Means of {} runs, 95 % intervals ", results["repeats"].size()));
  for (const auto& interval : results["ci95"].items()) {
    const std::string& key = interval.key();
    const bool shown = key == "duration" || key == "goodput" || key.ends_with("_throughput") ||
                       key.starts_with("mean_") || key.starts_with("median_") ||
                       (key.starts_with("p") && key.ends_with("_ms"));
    if (shown)
      text += fmt::format("{:<44} {:.2f} +- {:.2f}\n", key + ":", results[key].get<double>(),
                          interval.value().get<double>());
  }
  return text + fmt::format("{:=^60}\n", "");
}

Json ablation_json(const Json& with_all, const std::vector<NamedResults>& without) {
  const Json reference = compared_figures(with_all);
  Json rows = Json::array();
  for (const NamedResults& run : without) {
    const Json figures = compared_figures(run.results);
    Json row{{"without", run.name}}, difference = Json::object(), ratio = Json::object();
    for (const auto& figure : figures.items()) {
      row[figure.key()] = figure.value();
      const Json before = reference.contains(figure.key()) ? reference[figure.key()] : Json(nullptr);
      const bool both = figure.value().is_number() && before.is_number();
      difference[figure.key()] = both ? Json(figure.value().get<double>() - before.get<double>()) : Json(nullptr);
      ratio[figure.key()] =
          both && before.get<double>() != 0 ? Json(figure.value().get<double>() / before.get<double>()) : Json(nullptr);
    }
    row["difference"] = std::move(difference);
    row["ratio"] = std::move(ratio);
    add_intervals(row, figures, run.results);
    rows.push_back(std::move(row));
  }
  return rows;
}

std::string ablation_text(const Json& with_all, const Json& ablation) {
  const Json reference = compared_figures(with_all);
  const std::vector<Figure> columns = columns_of(reference);
  std::string text = fmt::format("{:-^60}\n{:<20}", " What each part contributes ", "Without");
  for (const Figure& column : columns) text += fmt::format(" {:>20}", column.label);
  text += fmt::format("\n{:<20}", "(as configured)");
  for (const Figure& column : columns) text += fmt::format(" {:>20}", number(reference[column.key], "{:.2f}"));
  text += "\n";
  for (const Json& row : ablation) {
    text += fmt::format("{:<20}", row["without"].get<std::string>());
    for (const Figure& column : columns) {
      std::string cell = number(row[column.key], "{:.2f}");
      if (!row["ratio"][column.key].is_null())
        cell += fmt::format(" (x {:.3f})", row["ratio"][column.key].get<double>());
      text += fmt::format(" {:>20}", cell);
    }
    text += "\n";
  }
  return text;
}

Json peaks_json(const std::vector<LoadPoint>& points) {
  Json rows = Json::array();
  for (const LoadPoint& point : points) {
    Json row{{"load_factor", point.factor}};
    for (const char* key : {"completed", "failed", "request_throughput", "output_throughput", "goodput", "goodput_by",
                            "p99_ttft_ms", "p99_tpot_ms", "p99_itl_ms", "p99_e2el_ms"})
      if (point.results.contains(key)) row[key] = point.results[key];
    Json figures = row;
    figures.erase("load_factor");
    add_intervals(row, figures, point.results);
    rows.push_back(std::move(row));
  }
  return rows;
}

std::string peaks_text(const Json& peaks) {
  std::string text = fmt::format("{:-^60}\n", " The same load at multiples of its rate ");
  text += fmt::format("{:>8} {:>12} {:>12} {:>14} {:>15} {:>15} {:>15}\n", "Load", "served/s", "goodput/s",
                      "output tok/s", "P99 TTFT (ms)", "P99 TPOT (ms)", "P99 ITL (ms)");
  for (const Json& row : peaks)
    text += fmt::format("{:>8} {:>12} {:>12} {:>14} {:>15} {:>15} {:>15}\n",
                        fmt::format("x {:g}", row["load_factor"].get<double>()),
                        number(row["request_throughput"], "{:.2f}"), number(row["goodput"], "{:.2f}"),
                        number(row["output_throughput"], "{:.2f}"), number(row["p99_ttft_ms"], "{:.2f}"),
                        number(row["p99_tpot_ms"], "{:.2f}"), number(row["p99_itl_ms"], "{:.2f}"));
  return text;
}

}  // namespace supernode::serving
