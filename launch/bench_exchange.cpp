// supernode bench exchange: times dispatch and combine of the token exchange, after checking their results.
#include <algorithm>

#include <fmt/format.h>

#include "collectives/algorithms.hpp"
#include "collectives/benchmark.hpp"
#include "collectives/rule_file.hpp"
#include "launch/commands.hpp"
#include "runtime/core/error.hpp"
#include "runtime/core/sizes.hpp"
#include "runtime/core/statistics.hpp"

namespace supernode::launch {
namespace {

using namespace collectives;

/// "direct (plain stores ...)" of each algorithm, for --help.
std::string algorithm_help() {
  std::string text = "list of algorithms, 'all', or 'auto'.";
  for (const AlgorithmEntry& entry : algorithms()) text += fmt::format(" {}: {}.", entry.name, entry.summary);
  return text;
}

class BenchExchangeCommand : public Command {
 public:
  void describe(OptionTable& t) override {
    const std::string section = "bench_exchange";
    t.add(section, "op", op_, "what is timed").choices({"dispatch", "combine", "roundtrip"});
    t.add(section, "algorithm", algorithms_, algorithm_help());
    t.add(section, "num_tokens", num_tokens_, "tokens that each rank dispatches; a list gives a row each");
    t.add(section, "hidden", hidden_, "elements of a row").range(1, 1 << 24);
    t.add(section, "num_topk", num_topk_, "experts of a token").range(1, 1024);
    t.add(section, "num_experts", num_experts_, "experts over all ranks").range(1, 1 << 20);
    t.add(section, "payload", payload_, "what rows travel as; back as bf16 after int8, else the same")
        .choices({"int8", "bf16", "f32"});
    t.add(section, "routing", routing_.pattern, "which experts the tokens choose").choices(routing_patterns());
    t.add(section, "zipf_alpha", routing_.zipf_alpha, "zipf: expert e has popularity 1/(e+1)^alpha").range(0, 100);
    t.add(section, "hot_experts", routing_.hot_experts, "k_hot: experts that share hot_fraction").range(1, 1 << 20);
    t.add(section, "hot_fraction", routing_.hot_fraction, "k_hot: share of the draws").range(0, 1);
    t.add(section, "seed", routing_.seed, "of rows and routing");
    t.add(section, "iterations", iterations_, "timed rounds").short_flag('i').range(1, 1e8);
    t.add(section, "warmup", warmup_, "rounds before them").short_flag('x').range(0, 1e8);
    collectives::describe(t, selection_);
    t.add(section, "check", check_, "1: compare every element with what it must be; 0: do not")
        .short_flag('c')
        .range(0, 1);
  }

  int run(const Context& context) override {
    const Communicator& world = *context.world;
    if (algorithms_.empty()) throw UsageError("--algorithm: an empty list");
    if (num_tokens_.empty()) throw UsageError("--num-tokens: an empty list");
    for (const int n : num_tokens_)
      if (n < 0 || n > 1 << 24) throw UsageError(fmt::format("--num-tokens: {} is outside [0, {}]", n, 1 << 24));
    if (num_topk_ > num_experts_)
      throw UsageError(fmt::format("--num-topk {} exceeds --num-experts {}", num_topk_, num_experts_));

    const Communicator host_ranks = world.split_by_host();
    ranks_ = world.size();
    hosts_ = static_cast<int>(world.sum(static_cast<long long>(host_ranks.rank() == 0)));
    oversubscribed_ = world.max(static_cast<long long>(host_ranks.size() > context.host.cores)) != 0;

    rules_ = load_rules(world, selection_);
    const std::vector<std::string> wanted = wanted_algorithms();
    Json results = Json::array();
    std::vector<Samples> samples;
    std::string rows;
    long long wrong = 0;
    for (const int n : num_tokens_)
      for (const std::string& algorithm : wanted) {
        const BenchmarkCase bench = make_case(n, algorithm, context.run.deadline);
        const BenchmarkResult result = run_benchmark(world, bench);
        wrong += result.wrong;
        if (!context.is_root()) continue;
        results.push_back(as_json(bench, result));
        rows += as_text(bench, result);
        samples.push_back(
            {fmt::format("samples/{}/{}/{}/wall_us", op_, algorithm, n), result.wall_us, {result.wall_us.size()}});
        samples.push_back(
            {fmt::format("samples/{}/{}/{}/limit_us", op_, algorithm, n), result.limit_us, {result.limit_us.size()}});
      }
    report(context, "bench exchange", results, context.is_root() ? header() + rows : std::string(), samples);
    if (wrong > 0) throw AgreedError(ExitCode::check_failed, fmt::format("bench exchange: {} wrong elements", wrong));
    return static_cast<int>(ExitCode::good);
  }

 private:
  /// Names of the list, once each; "all" stands for those that work on these ranks.
  std::vector<std::string> wanted_algorithms() const {
    std::vector<std::string> names;
    const auto want = [&](const std::string& name) {
      if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
    };
    for (const std::string& name : algorithms_) {
      if (name == "all") {
        for (const AlgorithmEntry& entry : algorithms())
          if (entry.obstacle({ranks_, hosts_}).empty()) want(std::string(entry.name));
      } else {
        if (name != "auto") find_algorithm(name);
        want(name);
      }
    }
    return names;
  }

  BenchmarkCase make_case(int num_tokens, const std::string& algorithm, double deadline_s) const {
    BenchmarkCase bench;
    bench.operation = parse_operation(op_);
    bench.exchange.max_tokens = std::max(num_tokens, 1);
    bench.exchange.hidden = hidden_;
    bench.exchange.topk = num_topk_;
    bench.exchange.num_experts = num_experts_;
    bench.exchange.dispatch_payload = parse_payload(payload_);
    bench.exchange.combine_payload = payload_ == "f32" ? Payload::f32 : Payload::bf16;
    bench.exchange.algorithm = algorithm;
    bench.exchange.rules = rules_;
    bench.exchange.deadline_s = deadline_s;
    bench.routing = routing_;
    bench.num_tokens = num_tokens;
    bench.iterations = iterations_;
    bench.warmup = warmup_;
    bench.check = check_ == 1;
    return bench;
  }

  static double gbps(std::uint64_t bytes, double us) { return us > 0 ? static_cast<double>(bytes) / us / 1e3 : 0; }

  Json as_json(const BenchmarkCase& bench, const BenchmarkResult& result) const {
    const Summary wall = summarize(result.wall_us);
    return {{"op", op_},
            {"algorithm", result.algorithm},
            {"ranks", ranks_},
            {"hosts", hosts_},
            {"num_tokens", bench.num_tokens},
            {"hidden", hidden_},
            {"num_topk", num_topk_},
            {"num_experts", num_experts_},
            {"payload", payload_},
            {"routing", routing_.pattern},
            {"bytes_per_rank", result.bytes_per_rank},
            {"iterations", iterations_},
            {"wall_us", to_json(wall)},
            {"algbw_GBps", gbps(result.bytes_per_rank, wall.p50)},
            {"busbw_GBps", gbps(result.busiest_bytes, wall.p50)},
            {"limit_us", summarize(result.limit_us).p50},
            {"model_us", nullptr},
            {"wrong", bench.check ? Json(result.wrong) : Json()},
            {"oversubscribed", oversubscribed_},
            {"requested_algorithm", bench.exchange.algorithm},
            {"combine_payload", name_of(bench.exchange.combine_payload)},
            {"seed", routing_.seed},
            {"buffer_bytes", exchange_buffer_bytes(bench.exchange, ranks_)}};
  }

  std::string header() const {
    const BenchmarkCase largest = make_case(*std::max_element(num_tokens_.begin(), num_tokens_.end()), "auto", 1);
    std::string text = fmt::format(
        "# supernode bench exchange: {}, {} ranks on {} host{}{}\n"
        "# hidden {}, topk {}, experts {}, payload {} there and {} back, routing {}, seed {}\n"
        "# buffers: at most {} a rank\n"
        "# us = 1e-6 s, GB/s = 1e9 B/s; time of an iteration = maximum over ranks; bandwidths from p50\n"
        "# bytes: most that a rank sends; algbw = bytes / time; busbw = most bytes to or from other ranks / time\n"
        "# limit: the same quantising, storing and adding in local memory, no communication\n",
        op_, ranks_, hosts_, hosts_ == 1 ? "" : "s", oversubscribed_ ? ", more ranks than cores: no timing" : "",
        hidden_, num_topk_, num_experts_, payload_, name_of(largest.exchange.combine_payload), routing_.pattern,
        routing_.seed, format_size(static_cast<double>(exchange_buffer_bytes(largest.exchange, ranks_))));
    text += fmt::format("{:<12} {:<12} {:>7} {:>11} {:>11} {:>11} {:>11} {:>11} {:>9} {:>8} {:>8} {:>11} {:>7}\n",
                        "#bytes", "algorithm", "tokens", "min_us", "mean_us", "p50_us", "p90_us", "p99_us", "ci95_us",
                        "algbw", "busbw", "limit_us", "wrong");
    return text;
  }

  std::string as_text(const BenchmarkCase& bench, const BenchmarkResult& result) const {
    const Summary wall = summarize(result.wall_us);
    return fmt::format(
        "{:<12} {:<12} {:>7} {:>11.2f} {:>11.2f} {:>11.2f} {:>11.2f} {:>11.2f} {:>9.2f} {:>8.3f} {:>8.3f} {:>11.2f} "
        "{:>7}\n",
        result.bytes_per_rank, result.algorithm, bench.num_tokens, wall.min, wall.mean, wall.p50, wall.p90, wall.p99,
        wall.ci95, gbps(result.bytes_per_rank, wall.p50), gbps(result.busiest_bytes, wall.p50),
        summarize(result.limit_us).p50, bench.check ? std::to_string(result.wrong) : "-");
  }

  std::string op_ = "dispatch", payload_ = "int8";
  std::vector<std::string> algorithms_ = {"auto"};
  std::vector<int> num_tokens_ = {128};
  int hidden_ = 7168, num_topk_ = 8, num_experts_ = 256, iterations_ = 100, warmup_ = 10, check_ = 1;
  RoutingConfig routing_;
  SelectionOptions selection_;
  std::shared_ptr<const SelectionRules> rules_;
  int ranks_ = 1, hosts_ = 1;
  bool oversubscribed_ = false;
};

}  // namespace

std::unique_ptr<Command> make_bench_exchange() { return std::make_unique<BenchExchangeCommand>(); }

}  // namespace supernode::launch
