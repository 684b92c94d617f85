#pragma once
// Results of `bench exchange` and `bench tune` for people (a table of text) and for programs (rows of JSON).

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "collectives/algorithms.hpp"
#include "collectives/benchmark/benchmark.hpp"
#include "launch/rank_places.hpp"
#include "runtime/core/json.hpp"

namespace supernode::launch {

/// What stands above the rows: lines that begin with '#' and say what was measured and where, and the names of the
/// columns.
/// @param largest the measured case with the most tokens; of Operation::alltoallv only its options count
/// @param env as run_provenance() gives it
std::string table_head(std::string_view command, const collectives::BenchmarkCase& largest, const RankPlaces& places,
                       const Json& env);
/// A row. @param bytes its first column @param checked whether result.wrong was counted
std::string table_row(std::uint64_t bytes, const std::string& tokens, const collectives::BenchmarkResult& result,
                      bool checked);

/// The keys that every row of results[] has, of any operation.
Json measured_json(const collectives::BenchmarkResult& result, collectives::Operation operation,
                   const RankPlaces& places, bool checked);
/// A row of results[] that measured an exchange: these keys and those of `bench`.
Json exchange_json(const collectives::BenchmarkCase& bench, const collectives::BenchmarkResult& result,
                   const RankPlaces& places);

/// Algorithms that a command was to measure but that do not work here: a warning for each on stderr, before the
/// measurement; the list of the document, [{"algorithm", "reason"}]; and a line for each under the table.
void warn_of_left_out(std::string_view command, std::span<const collectives::UnavailableAlgorithm> left_out);
Json left_out_json(std::span<const collectives::UnavailableAlgorithm> left_out);
std::string left_out_lines(std::span<const collectives::UnavailableAlgorithm> left_out);

}  // namespace supernode::launch
