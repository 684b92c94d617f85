#include "runtime/serving/load/metrics.hpp"

#include <algorithm>
#include <optional>

#include <fmt/format.h>

#include "runtime/core/error.hpp"
#include "runtime/core/text.hpp"
#include "runtime/serving/load/latency.hpp"

namespace supernode::serving {
namespace {

double e2el_ms(const RequestRecord& r) { return to_ms(r.finished - r.arrived); }
double ttft_ms(const RequestRecord& r) { return to_ms(r.first_token - r.arrived); }

std::optional<double> tpot_ms(const RequestRecord& r) {
  if (r.tokens.size() < 2) return std::nullopt;
  return to_ms(r.finished - r.first_token) / static_cast<double>(r.tokens.size() - 1);
}

std::vector<double> gaps_ms(const RequestRecord& r) {
  std::vector<double> gaps;
  for (std::size_t i = 1; i < r.token_times.size(); ++i) gaps.push_back(to_ms(r.token_times[i] - r.token_times[i - 1]));
  return gaps;
}

Json or_null(std::optional<double> value) { return value ? Json(*value) : Json(nullptr); }

Json parts_json(const PartTimes& p, double divide_by = 1) {
  const auto value = [&](RunSpan span) { return to_ms(span) / divide_by; };
  return {{"queue", value(p.queue)},       {"pool", value(p.pool)},     {"prefill", value(p.prefill)},
          {"handover", value(p.handover)}, {"decode", value(p.decode)}, {"exchange", value(p.exchange)}};
}

/// A request without a figure for an objective does not meet it.
bool meets(const RequestRecord& r, const std::string& objective, double limit_ms) {
  const std::optional<double> value = objective == "ttft" ? ttft_ms(r) : objective == "tpot" ? tpot_ms(r) : e2el_ms(r);
  return value && *value <= limit_ms;
}

Json request_json(const ServedRequest& served, const MetricsOptions& options) {
  const RequestRecord& r = served.record;
  Json row{{"id", served.request->id},
           {"input_tokens", served.request->prompt_tokens()},
           {"output_tokens", r.tokens.size()},
           {"hit_tokens", r.hit_tokens},
           {"computed_tokens", r.computed_tokens},
           {"arrival_ms", to_ms(r.arrived - RunTime{})},
           {"ttft_ms", r.tokens.empty() ? Json(nullptr) : Json(ttft_ms(r))},
           {"tpot_ms", or_null(tpot_ms(r))},
           {"e2el_ms", e2el_ms(r)},
           {"finish_reason", to_string(served.ended.why)},
           {"itl_ms", gaps_ms(r)},
           {"parts_ms", parts_json(parts_of(r))}};
  if (options.save_tokens) {
    row["prompt_token_ids"] = served.request->prompt;
    row["output_token_ids"] = r.tokens;
  }
  return row;
}

/// Sums over the requests that were completed: those that were refused or cancelled are rows, and no more.
struct Totals {
  std::vector<double> ttft, tpot, itl, e2el;  ///< ms
  PartTimes parts;
  RunTime last{};
  std::uint64_t completed = 0, input = 0, output = 0, hits = 0, computed = 0;
  std::uint64_t good = 0;                        ///< meet all objectives
  std::map<std::string, std::uint64_t> good_by;  ///< meet this one

  void add(const ServedRequest& served, const MetricsOptions& options) {
    const RequestRecord& r = served.record;
    ++completed;
    input += static_cast<std::uint64_t>(served.request->prompt_tokens());
    output += r.tokens.size();
    hits += static_cast<std::uint64_t>(r.hit_tokens);
    computed += static_cast<std::uint64_t>(r.computed_tokens);
    last = std::max(last, r.finished);
    ttft.push_back(ttft_ms(r));
    if (const auto tpot_of_r = tpot_ms(r)) tpot.push_back(*tpot_of_r);
    e2el.push_back(e2el_ms(r));
    const std::vector<double> gaps = gaps_ms(r);
    itl.insert(itl.end(), gaps.begin(), gaps.end());
    parts += parts_of(r);
    bool meets_all = true;
    for (const auto& [objective, limit_ms] : options.goodput_ms) {
      const bool met = meets(r, objective, limit_ms);
      good_by[objective] += met ? 1 : 0;
      meets_all = meets_all && met;
    }
    if (meets_all) ++good;
  }
};

Json pool_json(const PoolFigures& pool, const Totals& totals) {
  const double input = static_cast<double>(totals.input);
  Json json{{"lookups", pool.lookups},
            {"hits", pool.hits},
            {"hit_tokens", totals.hits},
            {"computed_tokens", totals.computed},
            {"hit_rate", totals.input > 0 ? static_cast<double>(totals.hits) / input : 0.0},
            {"miss_reasons", pool.miss_reasons},
            {"stored_blocks", pool.stored_blocks},
            {"already_there_blocks", pool.known_blocks},
            {"dropped_blocks", pool.dropped_blocks},
            {"dropped", pool.drop_reasons}};
  if (pool.model_bytes > 0) json["model"] = {{"bytes", pool.model_bytes}, {"bytes_read", pool.model_bytes_read}};
  return json;
}

/// The ways in which payload moves, as results and text name them.
struct Way {
  const char *key, *label;
  Transfers PayloadFigures::*figures;
};
constexpr Way kWays[] = {{"exchange", "Exchange", &PayloadFigures::exchange},
                         {"handover", "Hand-over of KV", &PayloadFigures::handover},
                         {"pool_load", "Loads from the pool", &PayloadFigures::pool_load},
                         {"pool_store", "Stores to the pool", &PayloadFigures::pool_store}};

Json payload_json(const PayloadFigures& payload) {
  Json json;
  for (const Way& way : kWays) {
    const Transfers& moved = payload.*way.figures;
    json[way.key] = {{"bytes", moved.bytes}, {"wall_s", moved.wall_s}, {"modelled_s", moved.modelled_s}};
  }
  return json;
}

/// One line a way: what was moved, then how long dies were at it.
std::string payload_text(const Json& payload) {
  std::string text = fmt::format("{:-^60}\n", " Payload: MB, wall s, modelled s ");
  for (const Way& way : kWays) {
    const Json& moved = payload[way.key];
    text += fmt::format("{:<26} {:>12.3f} {:>9.3f} {:>10.4f}\n", fmt::format("{}:", way.label),
                        moved["bytes"].get<double>() / 1e6, moved["wall_s"].get<double>(),
                        moved["modelled_s"].get<double>());
  }
  return text;
}

/// Medians of a die without steps are null, so that they are in no mean of several runs.
Json die_json(const DieSteps& die) {
  const auto median = [&](double value) { return die.times.steps > 0 ? Json(value) : Json(nullptr); };
  return {{"rank", die.rank},
          {"role", die.role},
          {"instance", die.instance},
          {"die", die.die},
          {"steps", die.times.steps},
          {"median_step_ms", median(die.times.median_s * 1e3)},
          {"median_token_us", median(die.times.median_per_token_s * 1e6)}};
}

/// What die_json() wrote, or the mean of such rows.
DieSteps die_steps_of(const Json& row) {
  const auto median = [&](const char* key) { return row[key].is_null() ? 0.0 : row[key].get<double>(); };
  return {row["rank"].get<int>(),
          row["role"].get<std::string>(),
          row["instance"].get<int>(),
          row["die"].get<int>(),
          {static_cast<std::uint64_t>(row["steps"].get<double>()), median("median_step_ms") / 1e3,
           median("median_token_us") / 1e6}};
}

void add_die_steps(Json& results, const std::vector<DieSteps>& dies) {
  if (dies.empty()) return;
  Json& rows = results["dies"] = Json::array();
  for (const DieSteps& die : dies) rows.push_back(die_json(die));
  name_slowest_die(results);
}

Json steady_json(const RunDescription& run) {
  const SteadyFigures& f = run.steady;
  const double npus = static_cast<double>(run.steady_dies) / run.dies_per_npu;
  const double batch = f.requests_per_die * run.dies_per_npu;
  Json json{{"batch_per_npu", batch}, {"iterations", f.steps}, {"formula_iteration_ms", run.formula_step_ms}};
  if (run.steady_options->stage == SteadyOptions::Stage::decode) {
    json["tpot_ms"] = f.tpot_ms;
    json["iteration_ms"] = f.step_ms;
    json["output_tokens_per_s_per_npu"] = f.tokens_per_s / npus;
  } else {
    json["iteration_ms"] = f.step_ms;
    json["prefill_tokens_per_s_per_npu"] = f.tokens_per_s / npus;
  }
  return json;
}

}  // namespace

std::map<std::string, double> parse_goodput(const std::vector<std::string>& items) {
  std::map<std::string, double> objectives;
  for (const std::string& item : items) {
    const auto parts = split(item, ':');
    const double value = parts.size() == 2 ? parse_number<double>(parts[1]).value_or(0) : 0;
    if ((parts[0] != "ttft" && parts[0] != "tpot" && parts[0] != "e2el") || !(value > 0))
      throw UsageError(fmt::format("--goodput: '{}' is not ttft:MS, tpot:MS or e2el:MS", item));
    objectives[std::string(parts[0])] = value;
  }
  return objectives;
}

void name_slowest_die(Json& results) {
  if (!results.contains("dies")) return;
  std::vector<DieSteps> dies;
  for (const Json& row : results["dies"]) dies.push_back(die_steps_of(row));
  Json& slowest = results["slowest_die"] = nullptr;
  if (const std::optional<SlowestDie> found = slowest_die(dies)) {
    slowest = results["dies"][found->index];
    slowest["times_median"] = found->times_median;
  }
}

Json request_row(const ServedRequest& served, const MetricsOptions& options) {
  if (served.ended.why == EndReason::failed) return {{"id", served.request->id}, {"reason", served.ended.detail}};
  return request_json(served, options);
}

Json serving_results(const std::vector<ServedRequest>& requests, const PoolFigures& pool, const MetricsOptions& options,
                     const RunDescription& run) {
  Totals totals;
  Json detailed = Json::array(), failures = Json::array();
  std::size_t refused = 0, cancelled = 0;
  for (const ServedRequest& served : requests) {
    if (served.ended.why == EndReason::failed) failures.push_back(request_row(served, options));
    if (served.ended.why == EndReason::refused) ++refused;
    if (served.ended.why == EndReason::cancelled) ++cancelled;
    if (served.completed()) totals.add(served, options);
    if (options.save_detailed && served.ended.why != EndReason::failed)
      detailed.push_back(request_json(served, options));
  }
  const double duration = run.steady_options ? run.steady_s : to_seconds(totals.last - RunTime{});
  const auto rate = [&](std::uint64_t count) { return duration > 0 ? static_cast<double>(count) / duration : 0.0; };
  const double npus = static_cast<double>(run.dies) / run.dies_per_npu;

  Json results{{"clock", run.clock},
               {"duration", duration},
               {"completed", totals.completed},
               {"failed", failures.size()},
               {"refused", refused},
               {"cancelled", cancelled},
               {"total_input_tokens", totals.input},
               {"total_output_tokens", totals.output},
               {"request_throughput", rate(totals.completed)},
               {"output_throughput", rate(totals.output)},
               {"total_token_throughput", rate(totals.input + totals.output)}};
  add_latency(results, "ttft", std::move(totals.ttft), options.percentiles);
  add_latency(results, "tpot", std::move(totals.tpot), options.percentiles);
  add_latency(results, "itl", std::move(totals.itl), options.percentiles);
  add_latency(results, "e2el", std::move(totals.e2el), options.percentiles);
  add_iterations(results, run.iterations, run.tpot_objective_ms, options.percentiles);
  results["goodput"] = options.goodput_ms.empty() ? Json(nullptr) : Json(rate(totals.good));
  for (const auto& [objective, limit_ms] : options.goodput_ms)
    results["goodput_by"][objective] = rate(totals.good_by[objective]);
  results["pool"] = pool_json(pool, totals);
  results["parts_ms"] = parts_json(totals.parts, totals.completed > 0 ? static_cast<double>(totals.completed) : 1);
  if (run.guesses.drafted > 0)
    results["mtp"] = {
        {"drafted", run.guesses.drafted},
        {"accepted", run.guesses.accepted},
        {"acceptance", static_cast<double>(run.guesses.accepted) / static_cast<double>(run.guesses.drafted)}};
  results["npus"] = npus;
  results["output_tokens_per_s_per_npu"] = rate(totals.output) / npus;
  add_die_steps(results, run.die_steps);
  if (run.clock == "modelled") {
    results["machine"] = run.machine;
    results["wall_s"] = run.wall.value;
    results["modelled_over_wall"] = run.wall.value > 0 ? Json(duration / run.wall.value) : Json(nullptr);
    results["step_terms_s"] = run.modelled_s;
  }
  if (run.payload) results["payload"] = payload_json(*run.payload);
  if (run.steady_options) results["steady"] = steady_json(run);
  if (!failures.empty()) results["failures"] = std::move(failures);
  if (options.save_detailed) results["requests"] = std::move(detailed);
  return results;
}

std::string serving_text(const Json& r, const MetricsOptions& options) {
  std::string text = fmt::format("{:=^60}\n", " Serving Benchmark Result ");
  const auto count = [&](std::string_view label, const Json& value) {
    // The mean over repeats of a count is no whole number.
    text += value.is_number_integer() ? fmt::format("{:<44} {:<15}\n", label, value.get<std::uint64_t>())
                                      : fmt::format("{:<44} {:<15.2f}\n", label, value.get<double>());
  };
  const auto number = [&](std::string_view label, const Json& value) { text += number_line(label, value); };
  count("Successful requests:", r["completed"]);
  count("Failed requests:", r["failed"]);
  if (r["refused"] > 0) count("Refused requests:", r["refused"]);
  if (r["cancelled"] > 0) count("Cancelled requests:", r["cancelled"]);
  number(fmt::format("Benchmark duration (s, {} clock):", r["clock"].get<std::string>()), r["duration"]);
  count("Total input tokens:", r["total_input_tokens"]);
  count("Total generated tokens:", r["total_output_tokens"]);
  number("Request throughput (req/s):", r["request_throughput"]);
  if (!r["goodput"].is_null()) number("Request goodput (req/s):", r["goodput"]);
  for (const auto& [objective, limit_ms] : options.goodput_ms)
    number(fmt::format("  by {} <= {:g} ms alone (req/s):", objective, limit_ms), r["goodput_by"][objective]);
  number("Output token throughput (tok/s):", r["output_throughput"]);
  number("Output token throughput per NPU (tok/s):", r["output_tokens_per_s_per_npu"]);
  number("Total token throughput (tok/s):", r["total_token_throughput"]);
  const auto latency = [&](std::string_view title, const std::string& key, const std::string& label) {
    text += latency_text(r, title, key, label, options.percentiles);
  };
  latency(" Time to First Token ", "ttft", "TTFT");
  latency(" Time per Output Token (excl. 1st token) ", "tpot", "TPOT");
  latency(" Inter-token Latency ", "itl", "ITL");
  if (!r["mean_step_ms"].is_null()) text += iterations_text(r, options.percentiles);
  latency(" End-to-end Latency ", "e2el", "E2EL");
  text += fmt::format("{:-^60}\n", " Context cache ");
  count("Prompt tokens from the pool:", r["pool"]["hit_tokens"]);
  count("Prompt tokens computed:", r["pool"]["computed_tokens"]);
  number("Hit rate (% of prompt tokens):", Json(r["pool"]["hit_rate"].get<double>() * 100));
  for (const auto& [reason, blocks] : r["pool"]["miss_reasons"].items())
    count("Blocks missed, " + reason + ":", blocks);
  for (const auto& [reason, blocks] : r["pool"]["dropped"].items()) count("Blocks not stored, " + reason + ":", blocks);
  if (r.contains("mtp")) {
    text += fmt::format("{:-^60}\n", " Speculation ");
    count("Tokens guessed:", r["mtp"]["drafted"]);
    number("Accepted (%):", Json(r["mtp"]["acceptance"].get<double>() * 100));
  }
  if (r.contains("wall_s")) {
    text += fmt::format("{:-^60}\n", " Two clocks ");
    number("Modelled time (s):", r["duration"]);
    number("Wall time of serving (s):", r["wall_s"]);
    number("Modelled over wall:", r["modelled_over_wall"]);
  }
  if (r.contains("payload")) text += payload_text(r["payload"]);
  if (r.contains("steady")) {
    text += fmt::format("{:-^60}\n", " Steady load ");
    const Json& steady = r["steady"];
    number("Batch per NPU:", steady["batch_per_npu"]);
    number("Iteration or batch (ms):", steady["iteration_ms"]);
    number("The same by formula (ms):", steady["formula_iteration_ms"]);
    if (steady.contains("tpot_ms")) {
      number("TPOT (ms):", steady["tpot_ms"]);
      number("Output tokens per s and NPU:", steady["output_tokens_per_s_per_npu"]);
    } else {
      number("Prompt tokens per s and NPU:", steady["prefill_tokens_per_s_per_npu"]);
    }
  }
  if (const auto slowest = r.find("slowest_die");
      slowest != r.end() && !slowest->is_null() && (*slowest)["times_median"].get<double>() >= slow_from)
    text += fmt::format("slow die: {} {} die {} (rank {}): {:.1f} times the median\n",
                        (*slowest)["role"].get<std::string>(), (*slowest)["instance"].get<int>(),
                        (*slowest)["die"].get<int>(), (*slowest)["rank"].get<int>(),
                        (*slowest)["times_median"].get<double>());
  text += fmt::format("{:-^60}\n", " Mean time of a request by part (ms) ");
  double sum = 0;
  for (const auto& [part, value] : r["parts_ms"].items()) {
    number(part + ":", value);
    sum += value.get<double>();
  }
  number("sum (= mean E2EL):", Json(sum));
  return text + fmt::format("{:=^60}\n", "");
}

}  // namespace supernode::serving
