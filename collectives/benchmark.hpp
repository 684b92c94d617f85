#pragma once
// Measures one case of the exchange: checks the result first, warms up, then times; beside it the same work without any
// communication. The figures are defined in README.md.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "collectives/routing.hpp"
#include "collectives/token_exchange.hpp"

namespace supernode::collectives {

enum class Operation {
  dispatch,
  combine,
  roundtrip,  ///< dispatch and combine without the experts' arithmetic
};

constexpr std::string_view name_of(Operation operation) {
  return operation == Operation::dispatch ? "dispatch" : operation == Operation::combine ? "combine" : "roundtrip";
}

/// "dispatch", "combine", "roundtrip". @throws UsageError listing them.
Operation parse_operation(std::string_view name);

struct BenchmarkCase {
  Operation operation = Operation::dispatch;
  ExchangeConfig exchange;
  RoutingConfig routing;
  int num_tokens = 128;  ///< dispatched by every rank, <= exchange.max_tokens
  int iterations = 100;
  int warmup = 10;
  bool check = true;
};

struct BenchmarkResult {
  std::string algorithm;             ///< in use, never "auto"
  std::uint64_t bytes_per_rank = 0;  ///< most bytes of messages that a rank sends, to itself too
  std::uint64_t busiest_bytes = 0;   ///< most bytes that a rank sends to or receives from the others
  std::vector<double> wall_us;       ///< [iterations], each the maximum over ranks
  std::vector<double> limit_us;      ///< likewise: the same quantising, storing and adding in local memory
  long long wrong = 0;               ///< wrong elements on all ranks together; 0 when not checked
};

/// Collective over `comm`; the result is the same on all ranks.
/// @throws UsageError as TokenExchange and draw_routing do.
BenchmarkResult run_benchmark(const Communicator& comm, const BenchmarkCase& bench);

}  // namespace supernode::collectives
