#include "launch/exchange_table.hpp"

#include <fmt/format.h>

#include "collectives/token_exchange.hpp"
#include "runtime/core/log.hpp"
#include "runtime/core/sizes.hpp"
#include "runtime/core/statistics.hpp"
#include "runtime/emulation/machine/machine.hpp"

namespace supernode::launch {
namespace {

using namespace collectives;

/// Whether there are values enough for an interval of the median.
bool bounded(const ToBest& to_best) { return to_best.turns >= 6; }

std::string text_of(const std::optional<ToBest>& to_best) {
  if (!to_best) return "-";
  return fmt::format("{:.3f}", to_best->ratio) + (bounded(*to_best) ? fmt::format("+-{:.3f}", to_best->ci95) : "");
}

/// Two lines: which ranks where, and by which MPI.
std::string place_lines(std::string_view command, Operation operation, const RankPlaces& places, const Json& env) {
  std::string hosts;
  for (const Json& host : env["hosts"])
    hosts +=
        fmt::format("{}{} x {}", hosts.empty() ? "" : ", ", host["name"].get<std::string>(), host["ranks"].get<int>());
  const Json& mpi = env["mpi"];
  const auto library = mpi["library"].get<std::string>();
  const auto component = [&](const char* name) {
    const auto value = mpi[name].get<std::string>();
    return fmt::format(", {} {}", name, value.empty() ? "any" : value);
  };
  std::string components;
  if (library.starts_with("Open MPI")) components = component("pml") + component("btl") + component("osc");
  std::string shared_cores;
  if (places.oversubscribed) {
    const std::string quota = env["cpu_quota"].is_null()
                                  ? std::string()
                                  : fmt::format(" (or than the {:g} of the CPU quota)", env["cpu_quota"].get<double>());
    shared_cores = fmt::format(", MORE RANKS THAN CORES{}: times are no speeds", quota);
  }
  return fmt::format(
      "# supernode {}: {}, {} ranks on {} host{} ({}){}\n"
      "# {}{}\n",
      command, name_of(operation), places.ranks, places.hosts, places.hosts == 1 ? "" : "s", hosts, shared_cores,
      library, components);
}

/// Three lines: what travels, and in which memory.
std::string traffic_lines(const BenchmarkCase& largest, const RankPlaces& places) {
  const ExchangeConfig& exchange = largest.exchange;
  const RoutingConfig& routing = largest.routing;
  return fmt::format(
      "# hidden {}, topk {}, experts {}, payload {} there and {} back, seed {}\n"
      "# routing {}{}: the busiest rank gets {:.3g} x the mean\n"
      "# buffers: at most {} a rank (auto, {} tokens)\n",
      exchange.hidden, exchange.topk, exchange.num_experts, name_of(exchange.dispatch_payload),
      name_of(exchange.combine_payload), routing.seed, routing.pattern,
      routing.recorded ? fmt::format(" {} layer {}", routing.recorded->source, routing.recorded->layer) : std::string(),
      exchange.typical_skew,
      format_size(static_cast<double>(exchange_buffer_bytes(exchange, places.ranks, places.hosts))),
      largest.num_tokens);
}

std::string rounds_line(const Repetition& repetition) {
  std::string until;
  if (repetition.ci_width > 0)
    until = fmt::format(" or more, until the 95 % interval of the median is {:g} of it or {:g} s have passed",
                        repetition.ci_width, repetition.time_limit_s);
  return fmt::format("# {} rounds{}; what is compared takes turns\n", repetition.least, until);
}

/// What the columns mean, and their names.
std::string column_lines(Operation operation) {
  return fmt::format(
      "# {}\n"
      "# us = 1e-6 s, GB/s = 1e9 B/s; time of a round = that of its slowest rank; algbw = bytes a rank / p50,\n"
      "# busbw = most bytes that a rank sends to or gets from others / p50; rank_us = each rank's own mean, over "
      "ranks;\n"
      "# vs_best = time over that of the best named algorithm, median of the turns in pairs, +- its 95 % interval\n"
      "{:<12} {:<16} {:>7} {:>7} {:>11} {:>11} {:>11} {:>11} {:>11} {:>9} {:>11} {:>13} {:>8} {:>8} {:>11} {:>10} "
      "{:>6}\n",
      operation == Operation::alltoallv
          ? "bytes: from each rank to each; algbw from what a rank sends to all, itself too; limit: memcpy"
          : "bytes: most that a rank sends, to itself too; limit: the same quantising, copying and adding in local "
            "memory",
      "#bytes", "algorithm", "tokens", "rounds", "min_us", "mean_us", "p50_us", "p90_us", "p99_us", "ci95_us",
      "rank_us", "vs_best", "algbw", "busbw", "limit_us", "model_us", "wrong");
}

}  // namespace

std::string table_head(std::string_view command, const BenchmarkCase& largest, const RankPlaces& places,
                       const Json& env) {
  const bool is_exchange = largest.operation != Operation::alltoallv;
  return place_lines(command, largest.operation, places, env) + (is_exchange ? traffic_lines(largest, places) : "") +
         rounds_line(largest.options.repetition) + column_lines(largest.operation);
}

std::string table_row(std::uint64_t bytes, const std::string& tokens, const BenchmarkResult& result, bool checked) {
  const Summary wall = summarize(result.wall_us);
  const std::string name = result.requested == "auto" ? "auto:" + result.algorithm : result.algorithm;
  return fmt::format(
      "{:<12} {:<16} {:>7} {:>7} {:>11.2f} {:>11.2f} {:>11.2f} {:>11.2f} {:>11.2f} {:>9.2f} {:>11.2f} {:>13} {:>8.3f} "
      "{:>8.3f} {:>11.2f} {:>10} {:>6}\n",
      bytes, name, tokens, result.wall_us.size(), wall.min, wall.mean, wall.p50, wall.p90, wall.p99, wall.ci95,
      result.rank_avg_us, text_of(result.to_best), gigabytes_per_second(result.bytes_per_rank, wall.p50),
      gigabytes_per_second(result.busiest_bytes, wall.p50), summarize(result.limit_us).p50,
      result.model_us ? fmt::format("{:.2f}", *result.model_us) : "-", checked ? std::to_string(result.wrong) : "-");
}

Json measured_json(const BenchmarkResult& result, Operation operation, const RankPlaces& places, bool checked) {
  const Summary wall = summarize(result.wall_us);
  Json row{{"op", name_of(operation)},
           {"algorithm", result.algorithm},
           {"requested_algorithm", result.requested},
           {"rule", result.rule.empty() ? Json() : Json(result.rule)},
           {"ranks", places.ranks},
           {"hosts", places.hosts},
           {"bytes_per_rank", result.bytes_per_rank},
           {"iterations", result.wall_us.size()},
           {"wall_us", to_json(wall)},
           {"rank_us", {{"avg", result.rank_avg_us}, {"min", result.rank_min_us}, {"max", result.rank_max_us}}},
           {"algbw_GBps", gigabytes_per_second(result.bytes_per_rank, wall.p50)},
           {"busbw_GBps", gigabytes_per_second(result.busiest_bytes, wall.p50)},
           {"limit_us", summarize(result.limit_us).p50},
           {"model_us", result.model_us ? Json(*result.model_us) : Json()},
           {"wrong", checked ? Json(result.wrong) : Json()},
           {"oversubscribed", places.oversubscribed},
           {"buffer_bytes", result.buffer_bytes},
           {"resident_bytes", result.resident_bytes}};
  row["vs_best"] = Json();
  if (result.to_best) {
    const ToBest& to_best = *result.to_best;
    row["vs_best"] = {{"best", to_best.best},
                      {"ratio", to_best.ratio},
                      {"ci95", bounded(to_best) ? Json(to_best.ci95) : Json()},
                      {"turns", to_best.turns}};
  }
  if (result.waits)
    row["waits"] = {{"most_for_rank", result.waits->most_for},
                    {"most_for_s", result.waits->most_for_s},
                    {"total_s", result.waits->total_s}};
  return row;
}

Json exchange_json(const BenchmarkCase& bench, const BenchmarkResult& result, const RankPlaces& places) {
  const ExchangeConfig& exchange = bench.exchange;
  const RoutingConfig& routing = bench.routing;
  Json row = measured_json(result, bench.operation, places, bench.options.check);
  row["num_tokens"] = bench.num_tokens;
  row["hidden"] = exchange.hidden;
  row["num_topk"] = exchange.topk;
  row["num_experts"] = exchange.num_experts;
  row["payload"] = name_of(exchange.dispatch_payload);
  row["combine_payload"] = name_of(exchange.combine_payload);
  row["routing"] = routing.pattern;
  row["routing_file"] = routing.recorded ? Json(routing.recorded->source) : Json();
  row["routing_layer"] = routing.recorded ? Json(routing.recorded->layer) : Json();
  row["skew"] = exchange.typical_skew;
  row["seed"] = routing.seed;
  row["machine"] = bench.machine ? Json(bench.machine->name) : Json();
  return row;
}

void warn_of_left_out(std::string_view command, std::span<const UnavailableAlgorithm> left_out) {
  for (const UnavailableAlgorithm& algorithm : left_out)
    log(LogLevel::warning, "{} leaves out exchange algorithm '{}': it {}", command, algorithm.name, algorithm.reason);
}

Json left_out_json(std::span<const UnavailableAlgorithm> left_out) {
  Json list = Json::array();
  for (const UnavailableAlgorithm& algorithm : left_out)
    list.push_back({{"algorithm", algorithm.name}, {"reason", algorithm.reason}});
  return list;
}

std::string left_out_lines(std::span<const UnavailableAlgorithm> left_out) {
  std::string lines;
  for (const UnavailableAlgorithm& algorithm : left_out)
    lines += fmt::format("# left out: {}; it {}\n", algorithm.name, algorithm.reason);
  return lines;
}

}  // namespace supernode::launch
