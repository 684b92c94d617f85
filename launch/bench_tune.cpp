// supernode bench tune: measures all algorithms of the exchange on these ranks, and writes the rules by which 'auto'
// chooses among them.
#include <algorithm>
#include <exception>
#include <filesystem>

#include <fmt/format.h>

#include "collectives/algorithms.hpp"
#include "collectives/selection/tuning.hpp"
#include "launch/commands.hpp"
#include "launch/exchange_options.hpp"
#include "launch/exchange_table.hpp"
#include "runtime/core/error.hpp"
#include "runtime/core/files.hpp"
#include "runtime/core/mpi/agreement.hpp"
#include "runtime/core/mpi/provenance.hpp"
#include "runtime/core/text.hpp"

namespace supernode::launch {
namespace {

using namespace collectives;

class BenchTuneCommand : public Command {
 public:
  void describe(OptionTable& t) override {
    t.add(section, "op", op_, "what is timed").choices({"dispatch", "combine", "roundtrip"});
    exchange_.describe(t);
    t.add(section, "rules_file", rules_file_,
          "the file of rules: made, or changed for this number of hosts and ranks only");
  }

  int run(const Context& context) override {
    const Communicator& world = *context.world;
    operation_ = parse_operation(op_);
    exchange_.resolve(context);
    std::vector<int> counts = exchange_.token_counts();
    std::sort(counts.begin(), counts.end());
    counts.erase(std::unique(counts.begin(), counts.end()), counts.end());
    if (counts.front() == 0) throw UsageError("--num-tokens: 0 tokens cannot be tuned for");
    // What stands in the file is kept, so it must be readable; better to know before minutes of measuring.
    on_root(world, [&] { read_old(); });
    const Json env = run_provenance(world, context.host, context.command_line);
    available_ = available_algorithms(world, exchange_.fake_hosts());
    if (context.is_root()) warn_of_left_out("bench tune", available_.left_out);

    for (const int n : counts) measure(context, n);
    std::string text;
    std::exception_ptr unwritten;  // on the root: what was measured is shown all the same
    on_root(world, [&] {
      chosen_ = winners(sizes_, tie);
      try {
        if (wrong_ == 0) write(env);
      } catch (const Error&) {
        unwritten = std::current_exception();
      }
      written_ = wrong_ == 0 && !unwritten;
      text = table_head("bench tune", exchange_.largest_case(operation_), exchange_.places(), env) + rows_ +
             left_out_lines(available_.left_out) + choices(counts);
    });
    for (Json& row : results_)
      row["chosen"] = chosen_[row["size"].get<std::size_t>()] == row["algorithm"].get<std::string>();
    for (Json& row : results_) row.erase("size");
    report(context, "bench tune", results_, text, samples_, left_out_json(available_.left_out));
    on_root(world, [&] {
      if (unwritten) std::rethrow_exception(unwritten);
    });
    if (wrong_ > 0)
      throw AgreedError(ExitCode::check_failed, fmt::format("bench tune: {} wrong elements, no rules written", wrong_));
    return static_cast<int>(ExitCode::good);
  }

 private:
  static constexpr const char* section = "bench_tune";
  /// Times closer than this are the same.
  static constexpr double tie = 0.02;

  void measure(const Context& context, int n_tokens) {
    BenchmarkCase bench = exchange_.bench_case(operation_, n_tokens);
    bench.algorithms = available_.working;
    const ExchangeConfig& config = bench.exchange;
    MeasuredSize size{
        static_cast<double>(n_tokens) * config.hidden * static_cast<double>(element_bytes(config.dispatch_payload)),
        {}};
    for (const BenchmarkResult& result : run_benchmark(*context.world, bench)) {
      wrong_ += result.wrong;
      size.times.emplace_back(result.algorithm, result.to_best->ratio);
      if (!context.is_root()) continue;
      Json row = exchange_json(bench, result, exchange_.places());
      row["size"] = sizes_.size();
      results_.push_back(row);
      rows_ += table_row(result.bytes_per_rank, std::to_string(n_tokens), result, bench.options.check);
      samples_.push_back({fmt::format("samples/{}/{}/{}/wall_us", op_, result.algorithm, n_tokens),
                          result.wall_us,
                          {result.wall_us.size()}});
    }
    sizes_.push_back(std::move(size));
  }

  /// The rules that stay, and the lines that tell where they come from.
  void read_old() {
    const auto folder = std::filesystem::path(rules_file_).parent_path();
    if (!folder.empty() && !std::filesystem::is_directory(folder))
      throw UsageError(fmt::format("--rules-file '{}': '{}' is no folder", rules_file_, folder.string()));
    check_new_file(rules_file_, IfExists::replace);
    if (!std::filesystem::exists(rules_file_)) {
      old_ = default_rules()->rules;
      return;
    }
    const std::string text = read_file(rules_file_);
    old_ = known_rules(text, rules_file_).rules;
    for (LineReader lines(text, rules_file_); lines.next();)
      if (lines.line().starts_with("# " + std::string(tuned_for)) && !lines.line().starts_with("# " + this_shape()))
        origins_ += std::string(lines.line().substr(2)) + "\n";
  }

  std::string this_shape() const {
    return fmt::format("{} hosts {} ranks {}:", tuned_for, exchange_.places().hosts, exchange_.places().ranks);
  }

  void write(const Json& env) const {
    const BenchmarkCase bench = exchange_.bench_case(operation_, 1);
    std::string without;
    for (const UnavailableAlgorithm& algorithm : available_.left_out)
      without += fmt::format("{} {}", without.empty() ? ", without" : " and", algorithm.name);
    const std::string comment =
        "Rules by which --algorithm auto takes an exchange algorithm: the first that fits. Written by supernode bench\n"
        "tune, which replaces the rules for its number of hosts and ranks and keeps all others. Use it by the option\n"
        "--exchange.rules FILE or the variable SUPERNODE_EXCHANGE__RULES.\n" +
        fmt::format("{} {}, supernode {}, {}, {}, hidden {}, topk {}, experts {}, payload {}, skew {:.3g}{}\n",
                    this_shape(), env["started"].get<std::string>(), version(),
                    env["mpi"]["library"].get<std::string>(), op_, bench.exchange.hidden, bench.exchange.topk,
                    bench.exchange.num_experts, name_of(bench.exchange.dispatch_payload), bench.exchange.typical_skew,
                    without) +
        origins_;
    const std::vector<SelectionRule> tuned =
        tuned_rules(sizes_, chosen_, exchange_.places().hosts, exchange_.places().ranks, bench.exchange.typical_skew);
    write_file(rules_file_, format_rules(merged_rules(tuned, old_), comment), IfExists::replace);
  }

  std::string choices(const std::vector<int>& counts) const {
    std::string text;
    for (std::size_t i = 0; i < sizes_.size(); ++i) {
      const auto& times = sizes_[i].times;
      const auto time_of = [&](const std::string& name) {
        return std::find_if(times.begin(), times.end(), [&](const auto& t) { return t.first == name; })->second;
      };
      text += fmt::format("# {} tokens: {}", counts[i], chosen_[i]);
      for (const auto& [name, us] : times)
        if (name != chosen_[i]) text += fmt::format(", {} {:.2f}x", name, us / time_of(chosen_[i]));
      text += '\n';
    }
    if (!written_) return text;
    return text + fmt::format("# rules for hosts {}, ranks {} written to {}; use them by --exchange.rules {}\n",
                              exchange_.places().hosts, exchange_.places().ranks, rules_file_, rules_file_);
  }

  static constexpr std::string_view tuned_for = "tuned for";

  std::string op_ = "roundtrip", rules_file_ = "exchange.rules";
  Operation operation_ = Operation::roundtrip;
  ExchangeOptions exchange_{section, "1:1024"};
  AvailableAlgorithms available_;

  std::vector<MeasuredSize> sizes_;
  std::vector<std::string> chosen_;
  std::vector<SelectionRule> old_;
  Json results_ = Json::array();
  std::string rows_, origins_;
  std::vector<Samples> samples_;
  long long wrong_ = 0;
  bool written_ = false;  ///< the rules, on the root
};

}  // namespace

std::unique_ptr<Command> make_bench_tune() { return std::make_unique<BenchTuneCommand>(); }

}  // namespace supernode::launch
