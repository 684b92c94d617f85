#pragma once
// Figures over a run's time in bounded memory: columns over bins of equal width, which doubles when the run outgrows
// them. Sums stay exact. Pure.

#include <cstddef>
#include <vector>

#include "runtime/serving/load/run_time.hpp"

namespace supernode::serving {

class TimeBins {
 public:
  /// What becomes of two bins that are merged.
  enum class Merge { sum, maximum };

  /// @param most bins, even and at least 2 @param width of the bins at first
  explicit TimeBins(std::size_t most = 2048, RunSpan width = std::chrono::milliseconds(1));

  /// A new column, zero so far. @returns its number
  std::size_t add_column(Merge merge);

  /// Into the bin of `at`, by the column's rule. O(1), but for the merging.
  void put(std::size_t column, RunTime at, double value);
  /// Adds level x seconds to all bins between the two times, as far as each is in it. O(bins in between). @pre a sum
  void hold(std::size_t column, RunTime from, RunTime to, double level);

  std::size_t bins() const { return bins_; }  ///< up to the latest time so far
  RunSpan width() const { return width_; }
  /// [bins()]
  std::vector<double> column(std::size_t number) const;

 private:
  struct Column {
    Merge merge;
    std::vector<double> values;
  };
  std::size_t bin_of(RunTime at);
  void double_width();

  const std::size_t most_;
  RunSpan width_;
  std::size_t bins_ = 0;
  std::vector<Column> columns_;
};

}  // namespace supernode::serving
