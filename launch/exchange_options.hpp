#pragma once
// What `bench exchange` and `bench tune` have in common: the exchange that is measured, and how its results are shown.

#include <memory>
#include <string>
#include <vector>

#include "collectives/algorithms.hpp"
#include "collectives/benchmark/benchmark.hpp"
#include "collectives/rule_file.hpp"
#include "launch/command.hpp"
#include "runtime/emulation/machine/machine.hpp"

namespace supernode::launch {

/// Where a benchmark runs; equal on all ranks.
struct RankPlaces {
  int ranks = 1, hosts = 1;
  bool oversubscribed = false;  ///< ranks share cores, see share_cores()
};
/// Collective.
RankPlaces rank_places(const Context& context);

/// The exchange, its traffic, and how often it is repeated.
class ExchangeOptions {
 public:
  /// @param num_tokens default of --num-tokens
  ExchangeOptions(std::string section, std::string num_tokens)
      : section_(std::move(section)), num_tokens_{std::move(num_tokens)} {}
  void describe(OptionTable& table);
  /// Checks what belongs together and reads the files that options name. Collective. @throws UsageError, AgreedError
  void resolve(const Context& context, const RankPlaces& places);

  /// The measurement of one size; its algorithms are "auto".
  collectives::BenchmarkCase bench_case(int num_tokens) const;
  const std::vector<int>& token_counts() const { return token_counts_; }
  const RankPlaces& places() const { return places_; }
  int fake_hosts() const { return fake_hosts_; }
  /// How often, and whether results are compared; the rest is the command's.
  const collectives::BenchmarkOptions& bench_options() const { return bench_options_; }

  /// A row of results[] that measured an exchange.
  Json as_json(const collectives::BenchmarkCase& bench, const collectives::BenchmarkResult& result) const;
  /// Lines above the table: what was measured, and where.
  std::string header(std::string_view command, std::string_view operation, const Json& env) const;

 private:
  void read_routing(const Context& context);

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

/// The keys that every row of results[] has, of any operation.
Json measured_json(const collectives::BenchmarkResult& result, std::string_view operation, const RankPlaces& places,
                   bool checked);
/// Names of the table's columns, and a row of it. `bytes` is its first column.
std::string table_header();
std::string table_row(std::uint64_t bytes, const std::string& tokens, const collectives::BenchmarkResult& result,
                      bool checked);

/// A line that names the algorithms which are not among `working`.
std::string left_out(const std::vector<const collectives::AlgorithmEntry*>& working);

/// "8", "8,128" or ranges that double, "1:4096" (the end is always in). @throws UsageError naming `option`.
std::vector<int> parse_token_counts(const std::vector<std::string>& texts, std::string_view option);

}  // namespace supernode::launch
