#include "launch/exchange_options.hpp"

#include <algorithm>
#include <limits>
#include <optional>

#include <fmt/format.h>

#include "collectives/traffic/recorded_routing.hpp"
#include "collectives/traffic/routing.hpp"
#include "runtime/core/error.hpp"
#include "runtime/core/mpi/agreement.hpp"
#include "runtime/core/sizes.hpp"
#include "runtime/core/text.hpp"

namespace supernode::launch {

using namespace collectives;

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

void ExchangeOptions::resolve(const Context& context) {
  const Communicator& world = *context.world;
  places_ = rank_places(context);
  if (fake_hosts_ > 1) {
    const Communicator host_ranks = world.split_by_host();
    const int parts = host_ranks.rank() == 0 ? std::min(fake_hosts_, host_ranks.size()) : 0;
    places_.hosts = static_cast<int>(world.sum(static_cast<long long>(parts)));
  }
  token_counts_ = parse_token_counts(num_tokens_, "--num-tokens");
  bench_options_.check = check_ == 1;
  deadline_s_ = context.run.deadline;
  resolve_repetition(*context.options);
  read_routing(context);
  if (num_topk_ > num_experts_)
    throw UsageError(fmt::format("--num-topk {} exceeds --num-experts {}", num_topk_, num_experts_));
  skew_ = routing_skew(expert_popularity(routing_, num_experts_), num_topk_, world.size());
  rules_ = load_rules(world, selection_);
  if (!machine_name_.empty()) read_machine(world);
}

void ExchangeOptions::resolve_repetition(const OptionTable& options) {
  Repetition& repetition = bench_options_.repetition;
  const bool until_narrow = iterations_ == 0 || options.given(section_, "ci_width");
  if (iterations_ > 0) repetition.least = iterations_;
  if (until_narrow) return;
  repetition.ci_width = 0;
  if (!options.given(section_, "time_limit")) repetition.time_limit_s = std::numeric_limits<double>::infinity();
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

void ExchangeOptions::read_machine(const Communicator& world) {
  machine_ = collectively(
      world, [&] { return std::make_shared<const emulation::Machine>(emulation::load_machine(machine_name_)); });
  if (world.size() > machine_->dies())
    throw UsageError(fmt::format("machine '{}' has {} dies, but there are {} ranks", machine_->name, machine_->dies(),
                                 world.size()));
}

BenchmarkCase ExchangeOptions::bench_case(Operation operation, int num_tokens) const {
  BenchmarkCase bench;
  bench.operation = operation;
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

BenchmarkCase ExchangeOptions::largest_case(Operation operation) const {
  return bench_case(operation, *std::max_element(token_counts_.begin(), token_counts_.end()));
}

std::vector<int> parse_token_counts(const std::vector<std::string>& texts, std::string_view option) {
  constexpr int most = 1 << 24;
  std::vector<int> counts;
  for (const std::string& text : texts) {
    const auto bad = [&](const std::string& why) { return UsageError(fmt::format("{} '{}': {}", option, text, why)); };
    const auto number = [&](std::string_view part) {
      const std::optional<int> value = parse_number<int>(part);
      if (!value || *value < 0 || *value > most)
        throw bad(fmt::format("a number from 0 to {}, or a range MIN:MAX", most));
      return *value;
    };
    const std::size_t colon = text.find(':');
    const int first = number(std::string_view(text).substr(0, colon));
    if (colon == std::string::npos) {
      counts.push_back(first);
      continue;
    }
    const int last = number(std::string_view(text).substr(colon + 1));
    if (first < 1 || last < first) throw bad("a range is MIN:MAX with 1 <= MIN <= MAX");
    for (const std::uint64_t count :
         doubling_sizes(static_cast<std::uint64_t>(first), static_cast<std::uint64_t>(last)))
      counts.push_back(static_cast<int>(count));
  }
  if (counts.empty()) throw UsageError(fmt::format("{}: an empty list", option));
  return counts;
}

}  // namespace supernode::launch
