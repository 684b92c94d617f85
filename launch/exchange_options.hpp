#pragma once
// The options that `bench exchange` and `bench tune` have in common: which exchange is measured, and how often.

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "collectives/benchmark/benchmark.hpp"
#include "collectives/rule_file.hpp"
#include "launch/command.hpp"
#include "launch/rank_places.hpp"
#include "runtime/emulation/machine/machine.hpp"

namespace supernode::launch {

/// The exchange, its traffic, and how often it is repeated.
class ExchangeOptions {
 public:
  /// @param num_tokens default of --num-tokens
  ExchangeOptions(std::string section, std::string num_tokens)
      : section_(std::move(section)), num_tokens_{std::move(num_tokens)} {}
  void describe(OptionTable& table);
  /// Checks what belongs together and reads the files that options name. Collective. @throws UsageError, AgreedError
  void resolve(const Context& context);

  /// The measurement of one size; its algorithms are "auto". It refers to this object.
  collectives::BenchmarkCase bench_case(collectives::Operation operation, int num_tokens) const;
  /// That of the size with the most tokens.
  collectives::BenchmarkCase largest_case(collectives::Operation operation) const;
  /// The sizes, in the order of the option; at least one.
  const std::vector<int>& token_counts() const { return token_counts_; }
  /// The ranks, on as many hosts as the exchange sees.
  const RankPlaces& places() const { return places_; }
  int fake_hosts() const { return fake_hosts_; }
  /// How often, and whether results are compared; the rest is the command's.
  const collectives::BenchmarkOptions& bench_options() const { return bench_options_; }

 private:
  void resolve_repetition(const OptionTable& options);
  void read_routing(const Context& context);
  void read_machine(const Communicator& world);

  std::string section_, payload_ = "int8", routing_file_, machine_name_;
  std::vector<std::string> num_tokens_;
  int hidden_ = 7168, num_topk_ = 8, num_experts_ = 256, routing_layer_ = -1, iterations_ = 0, check_ = 1;
  collectives::RoutingConfig routing_;
  collectives::SelectionOptions selection_;
  collectives::BenchmarkOptions bench_options_;
  std::shared_ptr<const collectives::SelectionRules> rules_;
  std::shared_ptr<const emulation::Machine> machine_;
  std::vector<int> token_counts_;
  double skew_ = 1, deadline_s_ = 120;
  int fake_hosts_ = 1;
  RankPlaces places_;
};

/// "8", "8,128" or ranges that double, "1:4096" (the end is always in). @throws UsageError naming `option`.
std::vector<int> parse_token_counts(const std::vector<std::string>& texts, std::string_view option);

}  // namespace supernode::launch
