#include "runtime/serving/load/metrics.hpp"

#include <algorithm>
#include <charconv>

#include <fmt/format.h>

#include "runtime/core/error.hpp"
#include "runtime/core/statistics.hpp"

namespace supernode::serving {
namespace {

double ms(Nanoseconds span) { return static_cast<double>(span) / 1e6; }

Nanoseconds e2el(const RequestRecord& r) { return r.finished - r.arrived; }
Nanoseconds ttft(const RequestRecord& r) { return r.first_token - r.arrived; }
double tpot_ms(const RequestRecord& r) {
  return r.tokens.size() > 1 ? ms(e2el(r) - ttft(r)) / static_cast<double>(r.tokens.size() - 1) : 0;
}

/// vLLM's key names: mean_x_ms, median_x_ms, std_x_ms, p99_x_ms.
void add_latency(Json& results, const std::string& name, std::vector<double> sample, const MetricsOptions& options) {
  const Summary s = summarize(sample);
  std::sort(sample.begin(), sample.end());
  results[fmt::format("mean_{}_ms", name)] = s.mean;
  results[fmt::format("median_{}_ms", name)] = s.p50;
  results[fmt::format("std_{}_ms", name)] = s.stddev;
  for (const double p : options.percentiles) results[fmt::format("p{:g}_{}_ms", p, name)] = quantile(sample, p / 100);
}

Json parts_json(const PartTimes& p, double divide_by = 1) {
  const auto value = [&](Nanoseconds span) { return ms(span) / divide_by; };
  return {{"queue", value(p.queue)},       {"pool", value(p.pool)},     {"prefill", value(p.prefill)},
          {"handover", value(p.handover)}, {"decode", value(p.decode)}, {"exchange", value(p.exchange)}};
}

bool meets_objectives(const RequestRecord& r, const std::map<std::string, double>& goodput_ms) {
  const std::map<std::string, double> mine{{"ttft", ms(ttft(r))}, {"tpot", tpot_ms(r)}, {"e2el", ms(e2el(r))}};
  return std::all_of(goodput_ms.begin(), goodput_ms.end(),
                     [&](const auto& objective) { return mine.at(objective.first) <= objective.second; });
}

Json request_json(const Request& request, const RequestRecord& r, const MetricsOptions& options) {
  std::vector<double> gaps;
  for (std::size_t i = 1; i < r.token_times.size(); ++i) gaps.push_back(ms(r.token_times[i] - r.token_times[i - 1]));
  Json row{{"id", request.id},
           {"input_tokens", request.prompt.size()},
           {"output_tokens", r.tokens.size()},
           {"hit_tokens", r.hit_tokens},
           {"computed_tokens", r.computed_tokens},
           {"arrival_ms", ms(r.arrived)},
           {"ttft_ms", ms(ttft(r))},
           {"tpot_ms", tpot_ms(r)},
           {"e2el_ms", ms(e2el(r))},
           {"itl_ms", gaps},
           {"parts_ms", parts_json(parts_of(r))}};
  if (options.save_tokens) {
    row["prompt_token_ids"] = request.prompt;
    row["output_token_ids"] = r.tokens;
  }
  return row;
}

}  // namespace

PartTimes parts_of(const RequestRecord& r) {
  PartTimes parts;
  parts.queue = r.prefill_started - r.arrived;
  parts.pool = r.pool;
  parts.exchange = r.prefill_exchange + r.decode_exchange;
  parts.prefill = r.first_token - r.prefill_started - r.pool - r.prefill_exchange;
  parts.handover = r.decode_joined - r.first_token;
  parts.decode = r.finished - r.decode_joined - r.decode_exchange;
  return parts;
}

std::map<std::string, double> parse_goodput(const std::vector<std::string>& items) {
  std::map<std::string, double> objectives;
  for (const std::string& item : items) {
    const auto colon = item.find(':');
    const std::string name = item.substr(0, colon);
    double value = 0;
    const char* begin = colon == std::string::npos ? item.data() + item.size() : item.data() + colon + 1;
    const auto [end, status] = std::from_chars(begin, item.data() + item.size(), value);
    if ((name != "ttft" && name != "tpot" && name != "e2el") || status != std::errc{} ||
        end != item.data() + item.size() || !(value > 0))
      throw UsageError(fmt::format("--goodput: '{}' is not ttft:MS, tpot:MS or e2el:MS", item));
    objectives[name] = value;
  }
  return objectives;
}

Json serving_results(const std::vector<Request>& requests, const std::vector<RequestRecord>& records,
                     const PoolFigures& pool, const MetricsOptions& options, const std::string& clock, int dies) {
  std::vector<double> ttfts, tpots, gaps, ends;
  PartTimes total;
  Nanoseconds last = 0;
  std::uint64_t completed = 0, input = 0, output = 0, hits = 0, computed = 0, good = 0;
  Json detailed = Json::array();
  for (std::size_t i = 0; i < records.size(); ++i) {
    const RequestRecord& r = records[i];
    if (!r.done) continue;
    ++completed;
    input += requests[i].prompt.size();
    output += r.tokens.size();
    hits += static_cast<std::uint64_t>(r.hit_tokens);
    computed += static_cast<std::uint64_t>(r.computed_tokens);
    last = std::max(last, r.finished);
    ttfts.push_back(ms(ttft(r)));
    if (r.tokens.size() > 1) tpots.push_back(tpot_ms(r));
    ends.push_back(ms(e2el(r)));
    for (std::size_t t = 1; t < r.token_times.size(); ++t) gaps.push_back(ms(r.token_times[t] - r.token_times[t - 1]));
    const PartTimes p = parts_of(r);
    total.queue += p.queue;
    total.pool += p.pool;
    total.prefill += p.prefill;
    total.handover += p.handover;
    total.decode += p.decode;
    total.exchange += p.exchange;
    if (meets_objectives(r, options.goodput_ms)) ++good;
    if (options.save_detailed) detailed.push_back(request_json(requests[i], r, options));
  }
  const double duration = static_cast<double>(last) / 1e9;
  const auto rate = [&](std::uint64_t count) { return duration > 0 ? static_cast<double>(count) / duration : 0.0; };
  const double npus = dies / 2.0;

  Json results{{"clock", clock},
               {"duration", duration},
               {"completed", completed},
               {"failed", requests.size() - completed},
               {"total_input_tokens", input},
               {"total_output_tokens", output},
               {"request_throughput", rate(completed)},
               {"output_throughput", rate(output)},
               {"total_token_throughput", rate(input + output)}};
  add_latency(results, "ttft", std::move(ttfts), options);
  add_latency(results, "tpot", std::move(tpots), options);
  add_latency(results, "itl", std::move(gaps), options);
  add_latency(results, "e2el", std::move(ends), options);
  results["goodput"] = options.goodput_ms.empty() ? Json(nullptr) : Json(rate(good));
  results["pool"] = {{"lookups", pool.lookups},
                     {"hits", pool.hits},
                     {"hit_tokens", hits},
                     {"computed_tokens", computed},
                     {"hit_rate", input > 0 ? static_cast<double>(hits) / static_cast<double>(input) : 0.0},
                     {"miss_reasons", pool.miss_reasons},
                     {"stored_blocks", pool.stored_blocks},
                     {"dropped_blocks", pool.dropped_blocks}};
  if (pool.model_bytes > 0)
    results["pool"]["model"] = {{"bytes", pool.model_bytes}, {"bytes_read", pool.model_bytes_read}};
  results["parts_ms"] = parts_json(total, completed > 0 ? static_cast<double>(completed) : 1);
  results["npus"] = npus;
  results["output_tokens_per_s_per_npu"] = rate(output) / npus;
  if (options.save_detailed) results["requests"] = std::move(detailed);
  return results;
}

std::string serving_text(const Json& r, const MetricsOptions& options) {
  std::string text = fmt::format("{:=^60}\n", " Serving Benchmark Result ");
  const auto count = [&](std::string_view label, const Json& value) {
    text += fmt::format("{:<44} {:<15}\n", label, value.get<std::uint64_t>());
  };
  const auto number = [&](std::string_view label, const Json& value) {
    text += fmt::format("{:<44} {:<15.2f}\n", label, value.get<double>());
  };
  count("Successful requests:", r["completed"]);
  count("Failed requests:", r["failed"]);
  number(fmt::format("Benchmark duration (s, {} clock):", r["clock"].get<std::string>()), r["duration"]);
  count("Total input tokens:", r["total_input_tokens"]);
  count("Total generated tokens:", r["total_output_tokens"]);
  number("Request throughput (req/s):", r["request_throughput"]);
  if (!r["goodput"].is_null()) number("Request goodput (req/s):", r["goodput"]);
  number("Output token throughput (tok/s):", r["output_throughput"]);
  number("Output token throughput per NPU (tok/s):", r["output_tokens_per_s_per_npu"]);
  number("Total token throughput (tok/s):", r["total_token_throughput"]);
  const auto latency = [&](std::string_view title, const std::string& key, const std::string& label) {
    text += fmt::format("{:-^60}\n", title);
    number(fmt::format("Mean {} (ms):", label), r[fmt::format("mean_{}_ms", key)]);
    number(fmt::format("Median {} (ms):", label), r[fmt::format("median_{}_ms", key)]);
    for (const double p : options.percentiles)
      number(fmt::format("P{:g} {} (ms):", p, label), r[fmt::format("p{:g}_{}_ms", p, key)]);
  };
  latency(" Time to First Token ", "ttft", "TTFT");
  latency(" Time per Output Token (excl. 1st token) ", "tpot", "TPOT");
  latency(" Inter-token Latency ", "itl", "ITL");
  latency(" End-to-end Latency ", "e2el", "E2EL");
  text += fmt::format("{:-^60}\n", " Context cache ");
  count("Prompt tokens from the pool:", r["pool"]["hit_tokens"]);
  count("Prompt tokens computed:", r["pool"]["computed_tokens"]);
  number("Hit rate (% of prompt tokens):", Json(r["pool"]["hit_rate"].get<double>() * 100));
  for (const auto& [reason, blocks] : r["pool"]["miss_reasons"].items())
    count("Blocks missed, " + reason + ":", blocks);
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
