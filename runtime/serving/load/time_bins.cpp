#include "runtime/serving/load/time_bins.hpp"

#include <algorithm>

#include "runtime/core/error.hpp"

namespace supernode::serving {

TimeBins::TimeBins(std::size_t most, RunSpan width) : most_(most), width_(width) {
  expect(most >= 2 && most % 2 == 0 && width > RunSpan{}, "bins of a positive width, an even number of them");
}

std::size_t TimeBins::add_column(Merge merge) {
  columns_.push_back({merge, std::vector<double>(most_)});
  return columns_.size() - 1;
}

void TimeBins::double_width() {
  for (Column& column : columns_) {
    std::vector<double>& v = column.values;
    for (std::size_t bin = 0; bin < most_ / 2; ++bin)
      v[bin] = column.merge == Merge::sum ? v[2 * bin] + v[2 * bin + 1] : std::max(v[2 * bin], v[2 * bin + 1]);
    std::fill(v.begin() + static_cast<std::ptrdiff_t>(most_ / 2), v.end(), 0.0);
  }
  bins_ = (bins_ + 1) / 2;
  width_ *= 2;
}

std::size_t TimeBins::bin_of(RunTime at) {
  const RunSpan since = std::max(at - RunTime{}, RunSpan{});
  while (since / width_ >= static_cast<RunSpan::rep>(most_)) double_width();
  const auto bin = static_cast<std::size_t>(since / width_);
  bins_ = std::max(bins_, bin + 1);
  return bin;
}

void TimeBins::put(std::size_t column, RunTime at, double value) {
  const std::size_t bin = bin_of(at);  // may merge
  Column& into = columns_[column];
  into.values[bin] = into.merge == Merge::sum ? into.values[bin] + value : std::max(into.values[bin], value);
}

void TimeBins::hold(std::size_t column, RunTime from, RunTime to, double level) {
  if (to <= from) return;
  const std::size_t last = bin_of(to);
  std::vector<double>& values = columns_[column].values;
  for (std::size_t bin = bin_of(from); bin <= last; ++bin) {
    const RunTime begin = RunTime(width_ * static_cast<RunSpan::rep>(bin));
    const RunSpan inside = std::min(to, begin + width_) - std::max(from, begin);
    values[bin] += level * to_seconds(inside);
  }
}

std::vector<double> TimeBins::column(std::size_t number) const {
  const std::vector<double>& values = columns_[number].values;
  return {values.begin(), values.begin() + static_cast<std::ptrdiff_t>(bins_)};
}

}  // namespace supernode::serving
