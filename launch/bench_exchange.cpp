// supernode bench exchange: times dispatch and combine of the token exchange, after checking their results.
#include <algorithm>

#include <fmt/format.h>

#include "collectives/algorithms.hpp"
#include "launch/commands.hpp"
#include "launch/exchange_options.hpp"
#include "launch/exchange_table.hpp"
#include "runtime/core/error.hpp"
#include "runtime/core/mpi/agreement.hpp"
#include "runtime/core/mpi/provenance.hpp"
#include "runtime/core/sizes.hpp"

namespace supernode::launch {
namespace {

using namespace collectives;

/// "direct (plain stores ...)" of each algorithm, for --help.
std::string algorithm_help() {
  std::string text = "list of algorithms, 'all', or 'auto' (by rules).";
  for (const AlgorithmName& algorithm : algorithms())
    text += fmt::format(" {}: {}.", algorithm.name, algorithm.summary);
  return text;
}

class BenchExchangeCommand : public Command {
 public:
  void describe(OptionTable& t) override {
    t.add(section, "op", op_, "what is timed; alltoallv: MPI_Alltoallv with equal counts instead of an exchange")
        .choices(operation_names());
    t.add(section, "algorithm", algorithms_, algorithm_help());
    exchange_.describe(t);
    t.add(section, "message_bytes", message_bytes_, "alltoallv: bytes to each rank, MIN:MAX doubles").short_flag('m');
    t.add(section, "matrix", matrix_, "also write who sent to whom and who waited for whom to this new HDF5 file");
    t.add(section, "inject", inject_,
          "make a fault in one timed round: stall:RANK:MS[:ITERATION], stop:RANK[:ITERATION] or "
          "corrupt:RANK[:ITERATION]");
  }

  int run(const Context& context) override {
    const Communicator& world = *context.world;
    const Operation operation = parse_operation(op_);
    exchange_.resolve(context);
    options_ = exchange_.bench_options();
    options_.injection = parse_injection(inject_, world.size());
    options_.record_waits = !matrix_.empty() || !inject_.empty();
    on_root(world, [&] {
      if (!matrix_.empty()) check_new_file(matrix_, context.run.if_exists());
    });
    const bool plain = operation == Operation::alltoallv;
    for (const char* key : {"algorithm", "message_bytes"})
      if (context.options->given(section, key) && plain == (std::string_view(key) == "algorithm"))
        throw UsageError(
            fmt::format("--{} is {}for --op alltoallv", plain ? "algorithm" : "message-bytes", plain ? "not " : ""));
    env_ = run_provenance(world, context.host, context.command_line);
    if (plain) {
      run_plain(context);
    } else {
      run_exchange(context, operation);
    }
    const std::string head =
        context.is_root() ? table_head("bench exchange", exchange_.largest_case(operation), exchange_.places(), env_)
                          : std::string();
    report(context, "bench exchange", results_, head + rows_ + left_out_lines(left_out_) + remarks_, samples_,
           left_out_json(left_out_));
    if (!matrix_.empty()) on_root(world, [&] { write_matrices(context); });
    if (wrong_ > 0) throw AgreedError(ExitCode::check_failed, fmt::format("bench exchange: {} wrong elements", wrong_));
    return static_cast<int>(ExitCode::good);
  }

 private:
  static constexpr const char* section = "bench_exchange";

  void run_exchange(const Context& context, Operation operation) {
    const std::vector<std::string> wanted = wanted_algorithms(*context.world);
    if (context.is_root()) warn_of_left_out("bench exchange", left_out_);
    for (const int n : exchange_.token_counts()) {
      BenchmarkCase bench = exchange_.bench_case(operation, n);
      bench.algorithms = wanted;
      bench.options = options_;
      for (const BenchmarkResult& result : run_benchmark(*context.world, bench)) {
        wrong_ += result.wrong;
        if (!context.is_root()) continue;
        results_.push_back(exchange_json(bench, result, exchange_.places()));
        rows_ += table_row(result.bytes_per_rank, std::to_string(n), result, options_.check);
        keep(result, fmt::format("{}/{}/{}", op_, result.requested, n));
      }
    }
  }

  void run_plain(const Context& context) {
    if (message_bytes_.min < 1) throw UsageError("--message-bytes: MIN:MAX with 1 <= MIN <= MAX");
    for (const std::uint64_t bytes : doubling_sizes(message_bytes_.min, message_bytes_.max)) {
      const BenchmarkResult result = run_plain_alltoallv(*context.world, bytes, options_, context.run.deadline);
      wrong_ += result.wrong;
      if (!context.is_root()) continue;
      Json row = measured_json(result, Operation::alltoallv, exchange_.places(), options_.check);
      row["message_bytes"] = bytes;
      for (const char* key : {"num_tokens", "hidden", "num_topk", "num_experts", "payload", "routing"})
        row[key] = nullptr;
      results_.push_back(row);
      rows_ += table_row(bytes, "-", result, options_.check);
      keep(result, fmt::format("{}/{}", op_, bytes));
    }
  }

  /// Samples and matrices of a row, under `path`; on the root.
  void keep(const BenchmarkResult& result, const std::string& path) {
    samples_.push_back({"samples/" + path + "/wall_us", result.wall_us, {result.wall_us.size()}});
    samples_.push_back({"samples/" + path + "/turn_us", result.turn_us, {result.turn_us.size()}});
    samples_.push_back({"samples/" + path + "/limit_us", result.limit_us, {result.limit_us.size()}});
    if (!result.waits) return;
    const Waits& waits = *result.waits;
    if (waits.total_s > 0)
      remarks_ += fmt::format("# {}: waited most for rank {}, {:.6f} s of {:.6f} s by all ranks\n", path,
                              waits.most_for, waits.most_for_s, waits.total_s);
    matrices_.push_back({path, waits});
  }

  void write_matrices(const Context& context) const {
    ResultFile file(matrix_, context.run.if_exists());
    const auto n = static_cast<std::size_t>(context.world->size());
    for (const auto& [path, waits] : matrices_) {
      const std::string bytes = "matrix/" + path + "/bytes", seconds = "matrix/" + path + "/waited_s";
      file.dataset(bytes, waits.bytes, {n, n});
      file.attribute(bytes, "meaning", "bytes of messages in one round; row: sender, column: receiver");
      file.dataset(seconds, waits.seconds, {n, n});
      file.attribute(seconds, "meaning",
                     "seconds of waiting over all timed rounds; row: who waited, column: for whom. In MPI's own "
                     "all-to-all: until the last rank came");
    }
    file.attribute("/", "provenance", env_.dump());
    file.attribute("/", "results", results_.dump());
    file.close();
  }

  /// Names of the list, once each; "all" stands for the whole table, but for what does not work on these ranks: that is
  /// kept in left_out_. Whether a named one works is seen when it is built. Collective.
  std::vector<std::string> wanted_algorithms(const Communicator& world) {
    std::vector<std::string> names;
    const auto want = [&](const std::string& name) {
      if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
    };
    for (const std::string& name : algorithms_) {
      if (name == "all") {
        AvailableAlgorithms available = available_algorithms(world, exchange_.fake_hosts());
        for (const std::string& working : available.working) want(working);
        left_out_ = std::move(available.left_out);
      } else {
        if (name != "auto") check_algorithm_name(name);
        want(name);
      }
    }
    if (names.empty()) throw UsageError("--algorithm: an empty list");
    return names;
  }

  std::string op_ = "dispatch", matrix_, inject_;
  std::vector<std::string> algorithms_ = {"auto"};
  ExchangeOptions exchange_{section, "128"};
  BytesRange message_bytes_{1, 1u << 20};

  BenchmarkOptions options_;
  Json env_, results_ = Json::array();
  std::string rows_, remarks_;
  std::vector<Samples> samples_;
  std::vector<std::pair<std::string, Waits>> matrices_;
  std::vector<UnavailableAlgorithm> left_out_;
  long long wrong_ = 0;
};

}  // namespace

std::unique_ptr<Command> make_bench_exchange() { return std::make_unique<BenchExchangeCommand>(); }

}  // namespace supernode::launch
