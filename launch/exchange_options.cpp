#include "launch/exchange_options.hpp"

#include <algorithm>
#include <charconv>
#include <limits>

#include <fmt/format.h>

#include "runtime/core/error.hpp"
#include "runtime/core/mpi/agreement.hpp"
#include "runtime/core/sizes.hpp"
#include "runtime/core/statistics.hpp"

namespace supernode::launch {
namespace {

using namespace collectives;

constexpr int max_token_count = 1 << 24;

/// Whether there are values enough for an interval of the median.
bool bounded(const ToBest& to_best) { return to_best.turns >= 6; }

std::string text_of(const std::optional<ToBest>& to_best) {
  if (!to_best) return "-";
  return fmt::format("{:.3f}", to_best->ratio) + (bounded(*to_best) ? fmt::format("+-{:.3f}", to_best->ci95) : "");
}

}  // namespace

RankPlaces rank_places(const Context& context) {
  const Communicator& world = *context.world;
  const Communicator host_ranks = world.split_by_host();
  return {world.size(), static_cast<int>(world.sum(static_cast<long long>(host_ranks.rank() == 0))),
          oversubscribed(world, context.host)};
}

void ExchangeOptions::describe(OptionTable& t) {
  const std::string& s = section_;
  t.add(s, "num_tokens", num_tokens_, "tokens that each rank dispatches: a list, or MIN:MAX doubling; a row each");
  t.add(s, "hidden", hidden_, "elements of a row").range(1, 1 << 24);
  t.add(s, "num_topk", num_topk_, "experts of a token").range(1, 1024);
  t.add(s, "num_experts", num_experts_, "experts over all ranks").range(1, 1 << 20);
  t.add(s, "payload", payload_, "what rows travel as; back as bf16 after int8, else the same")
      .choices({"int8", "bf16", "f32"});
  std::vector<std::string> patterns = routing_patterns();
  patterns.push_back("file");
  t.add(s, "routing", routing_.pattern, "which experts the tokens choose").choices(patterns);
  t.add(s, "routing_file", routing_file_,
        "file: recorded routing, {\"logical_count\": [layers][experts]} or lines with \"routing\" of single tokens");
  t.add(s, "routing_layer", routing_layer_, "file: layer of the model; -1: the first that has any").range(-1, 1e6);
  t.add(s, "zipf_alpha", routing_.zipf_alpha, "zipf: expert e has popularity 1/(e+1)^alpha").range(0, 100);
  t.add(s, "hot_experts", routing_.hot_experts, "k_hot: experts that share hot_fraction").range(1, 1 << 20);
  t.add(s, "hot_fraction", routing_.hot_fraction, "k_hot: share of the draws").range(0, 1);
  t.add(s, "seed", routing_.seed, "of rows and routing");
  t.add(s, "iterations", iterations_,
        "timed rounds; 0: until --ci-width is met, at least 20. With --ci-width given: at least this many")
      .short_flag('i')
      .range(0, 1e8);
  t.add(s, "fake_hosts", fake_hosts_, "for tests: treat each host's ranks as this many hosts").range(1, 1 << 20);
  Repetition& repetition = bench_options_.repetition;
  t.add(s, "warmup", repetition.warmup, "rounds before them; fewer when they take over a tenth of --time-limit")
      .short_flag('x')
      .range(0, 1e8);
  t.add(s, "ci_width", repetition.ci_width, "go on until the 95 % interval of the median is this part of the median")
      .range(1e-4, 10);
  t.add(s, "time_limit", repetition.time_limit_s, "but no longer than this, s a size").range(0.001, 1e6);
  t.add(s, "check", check_, "1: compare every element with what it must be; 0: do not").short_flag('c').range(0, 1);
  t.add(s, "machine", machine_name_, "also model the time on this machine: a name in configs/machines, or a file");
  collectives::describe(t, selection_);
}

void ExchangeOptions::resolve(const Context& context, const RankPlaces& places) {
  const Communicator& world = *context.world;
  places_ = places;
  if (fake_hosts_ > 1) {
    const Communicator host_ranks = context.world->split_by_host();
    const int parts = host_ranks.rank() == 0 ? std::min(fake_hosts_, host_ranks.size()) : 0;
    places_.hosts = static_cast<int>(context.world->sum(static_cast<long long>(parts)));
  }
  token_counts_ = parse_token_counts(num_tokens_, "--num-tokens");
  bench_options_.check = check_ == 1;
  deadline_s_ = context.run.deadline;

  Repetition& repetition = bench_options_.repetition;
  const bool until_narrow = iterations_ == 0 || context.options->given(section_, "ci_width");
  if (iterations_ > 0) repetition.least = iterations_;
  if (!until_narrow) repetition.ci_width = 0;
  if (!until_narrow && !context.options->given(section_, "time_limit"))
    repetition.time_limit_s = std::numeric_limits<double>::infinity();

  read_routing(context);
  if (num_topk_ > num_experts_)
    throw UsageError(fmt::format("--num-topk {} exceeds --num-experts {}", num_topk_, num_experts_));
  skew_ = routing_skew(expert_popularity(routing_, num_experts_), num_topk_, world.size());
  rules_ = load_rules(world, selection_);
  if (!machine_name_.empty()) {
    machine_ = collectively(
        world, [&] { return std::make_shared<const emulation::Machine>(emulation::load_machine(machine_name_)); });
    if (world.size() > machine_->dies())
      throw UsageError(fmt::format("machine '{}' has {} dies, but there are {} ranks", machine_->name, machine_->dies(),
                                   world.size()));
  }
}

void ExchangeOptions::read_routing(const Context& context) {
  if (routing_.pattern != "file") {
    if (!routing_file_.empty()) throw UsageError("--routing-file is for --routing file");
    return;
  }
  if (routing_file_.empty()) throw UsageError("--routing file needs --routing-file");
  const Communicator& world = *context.world;
  const std::string text = read_file_on_root(world, routing_file_);
  routing_.recorded = collectively(world, [&] {
    return std::make_shared<const RecordedRouting>(parse_recorded_routing(text, routing_file_, routing_layer_));
  });
  const RecordedRouting& recorded = *routing_.recorded;
  const auto adopt = [&](int& value, int from_file, const char* key, const char* flag) {
    if (from_file != value && context.options->given(section_, key))
      throw UsageError(fmt::format("{}: recorded with {} {}, not {}", routing_file_, from_file, flag, value));
    value = from_file;
  };
  adopt(num_experts_, recorded.num_experts, "num_experts", "experts");
  if (recorded.topk > 0) adopt(num_topk_, recorded.topk, "num_topk", "experts a token");
}

BenchmarkCase ExchangeOptions::bench_case(int num_tokens) const {
  BenchmarkCase bench;
  bench.exchange.max_tokens = std::max(num_tokens, 1);
  bench.exchange.hidden = hidden_;
  bench.exchange.topk = num_topk_;
  bench.exchange.num_experts = num_experts_;
  bench.exchange.dispatch_payload = parse_payload(payload_);
  bench.exchange.combine_payload = payload_ == "f32" ? Payload::f32 : Payload::bf16;
  bench.exchange.typical_skew = skew_;
  bench.exchange.rules = rules_;
  bench.exchange.fake_hosts = fake_hosts_;
  bench.exchange.deadline_s = deadline_s_;
  bench.routing = routing_;
  bench.num_tokens = num_tokens;
  bench.machine = machine_.get();
  bench.options = bench_options_;
  return bench;
}

Json ExchangeOptions::as_json(const BenchmarkCase& bench, const BenchmarkResult& result) const {
  Json row = measured_json(result, name_of(bench.operation), places_, bench.options.check);
  row["num_tokens"] = bench.num_tokens;
  row["hidden"] = hidden_;
  row["num_topk"] = num_topk_;
  row["num_experts"] = num_experts_;
  row["payload"] = payload_;
  row["combine_payload"] = name_of(bench.exchange.combine_payload);
  row["routing"] = routing_.pattern;
  row["routing_file"] = routing_.recorded ? Json(routing_file_) : Json();
  row["routing_layer"] = routing_.recorded ? Json(routing_.recorded->layer) : Json();
  row["skew"] = skew_;
  row["seed"] = routing_.seed;
  row["machine"] = machine_ ? Json(machine_->name) : Json();
  return row;
}

std::string ExchangeOptions::header(std::string_view command, std::string_view operation, const Json& env) const {
  const BenchmarkCase largest = bench_case(*std::max_element(token_counts_.begin(), token_counts_.end()));
  std::string hosts;
  for (const Json& host : env["hosts"])
    hosts +=
        fmt::format("{}{} x {}", hosts.empty() ? "" : ", ", host["name"].get<std::string>(), host["ranks"].get<int>());
  const Json& mpi = env["mpi"];
  const auto component = [&](const char* name) {
    const std::string value = mpi[name].get<std::string>();
    return value.empty() ? "any" : value;
  };
  const Repetition& repetition = bench_options_.repetition;
  std::string rounds = fmt::format("{} rounds", repetition.least);
  if (repetition.ci_width > 0)
    rounds += fmt::format(" or more, until the 95 % interval of the median is {:g} of it or {:g} s have passed",
                          repetition.ci_width, repetition.time_limit_s);
  std::string text = fmt::format(
      "# supernode {}: {}, {} ranks on {} host{} ({}){}\n"
      "# {}, pml {}, btl {}, osc {}\n",
      command, operation, places_.ranks, places_.hosts, places_.hosts == 1 ? "" : "s", hosts,
      places_.oversubscribed
          ? fmt::format(", MORE RANKS THAN CORES{}: times are no speeds",
                        env["cpu_quota"].is_null()
                            ? std::string()
                            : fmt::format(" (or than the {:g} of the CPU quota)", env["cpu_quota"].get<double>()))
          : std::string(),
      mpi["library"].get<std::string>(), component("pml"), component("btl"), component("osc"));
  if (operation != name_of(Operation::alltoallv))
    text += fmt::format(
        "# hidden {}, topk {}, experts {}, payload {} there and {} back, seed {}\n"
        "# routing {}{}: the busiest rank gets {:.3g} x the mean\n"
        "# buffers: at most {} a rank (auto, {} tokens)\n",
        hidden_, num_topk_, num_experts_, payload_, name_of(largest.exchange.combine_payload), routing_.seed,
        routing_.pattern,
        routing_.recorded ? fmt::format(" {} layer {}", routing_file_, routing_.recorded->layer) : std::string(), skew_,
        format_size(static_cast<double>(exchange_buffer_bytes(largest.exchange, places_.ranks, places_.hosts))),
        largest.num_tokens);
  return text +
         fmt::format(
             "# {}; what is compared takes turns\n# {}\n", rounds,
             operation == name_of(Operation::alltoallv)
                 ? "bytes: from each rank to each; algbw from what a rank sends to all, itself too; limit: memcpy"
                 : "bytes: most that a rank sends, to itself too; limit: the same quantising, copying and "
                   "adding in local memory");
}

Json measured_json(const BenchmarkResult& result, std::string_view operation, const RankPlaces& places, bool checked) {
  const Summary wall = summarize(result.wall_us);
  Json row{{"op", operation},
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

std::string table_header() {
  return fmt::format(
      "# us = 1e-6 s, GB/s = 1e9 B/s; time of a round = that of its slowest rank; algbw = bytes a rank / p50,\n"
      "# busbw = most bytes that a rank sends to or gets from others / p50; rank_us = each rank's own mean, over "
      "ranks;\n"
      "# vs_best = time over that of the best named algorithm, median of the turns in pairs, +- its 95 % interval\n"
      "{:<12} {:<16} {:>7} {:>7} {:>11} {:>11} {:>11} {:>11} {:>11} {:>9} {:>11} {:>13} {:>8} {:>8} {:>11} {:>10} "
      "{:>6}\n",
      "#bytes", "algorithm", "tokens", "rounds", "min_us", "mean_us", "p50_us", "p90_us", "p99_us", "ci95_us",
      "rank_us", "vs_best", "algbw", "busbw", "limit_us", "model_us", "wrong");
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

std::string left_out(const std::vector<const AlgorithmEntry*>& working) {
  std::string names;
  for (const AlgorithmEntry& entry : algorithms())
    if (std::find(working.begin(), working.end(), &entry) == working.end())
      names += fmt::format("{}{}", names.empty() ? "" : ", ", entry.name);
  return fmt::format("# left out of 'all': {}, for which this MPI lacks one-sided windows\n", names);
}

std::vector<int> parse_token_counts(const std::vector<std::string>& texts, std::string_view option) {
  const auto bad = [&](const std::string& text, const std::string& why) {
    return UsageError(fmt::format("{} '{}': {}", option, text, why));
  };
  std::vector<int> counts;
  for (const std::string& text : texts) {
    const std::size_t colon = text.find(':');
    const auto number = [&](std::string_view part) {
      int value = 0;
      const auto [end, error] = std::from_chars(part.data(), part.data() + part.size(), value);
      if (error != std::errc() || end != part.data() + part.size() || value < 0 || value > max_token_count)
        throw bad(text, fmt::format("a number from 0 to {}, or a range MIN:MAX", max_token_count));
      return value;
    };
    if (colon == std::string::npos) {
      counts.push_back(number(text));
      continue;
    }
    const std::string_view whole = text;
    const int first = number(whole.substr(0, colon)), last = number(whole.substr(colon + 1));
    if (first < 1 || last < first) throw bad(text, "a range is MIN:MAX with 1 <= MIN <= MAX");
    for (int count = first; count < last; count *= 2) counts.push_back(count);
    counts.push_back(last);
  }
  if (counts.empty()) throw UsageError(fmt::format("{}: an empty list", option));
  return counts;
}

}  // namespace supernode::launch
