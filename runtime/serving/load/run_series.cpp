#include "runtime/serving/load/run_series.hpp"

#include <utility>

#include "runtime/core/error.hpp"

namespace supernode::serving {

using Merge = TimeBins::Merge;

std::size_t LoadSnapshot::running() const {
  std::size_t sum = 0;
  for (const std::vector<Instance>* role : {&prefill, &decode})
    for (const Instance& instance : *role) sum += static_cast<std::size_t>(instance.requests);
  return sum;
}

RunSeries::RunSeries(std::size_t most_bins, RunSpan narrowest)
    : bins_(most_bins, narrowest),
      arrived_(bins_.add_column(Merge::sum)),
      completed_(bins_.add_column(Merge::sum)),
      failed_(bins_.add_column(Merge::sum)),
      output_(bins_.add_column(Merge::sum)),
      hit_(bins_.add_column(Merge::sum)),
      computed_(bins_.add_column(Merge::sum)),
      queued_(bins_.add_column(Merge::sum)),
      queued_max_(bins_.add_column(Merge::maximum)) {}

std::vector<RunSeries::InstanceColumns> RunSeries::add_instances(std::size_t count) {
  std::vector<InstanceColumns> columns;
  for (std::size_t i = 0; i < count; ++i)
    columns.push_back({bins_.add_column(Merge::sum), bins_.add_column(Merge::sum), bins_.add_column(Merge::sum),
                       bins_.add_column(Merge::sum), bins_.add_column(Merge::maximum)});
  return columns;
}

void RunSeries::prefilled(RunTime at, int hit_tokens, int computed_tokens) {
  bins_.put(hit_, at, hit_tokens);
  bins_.put(computed_, at, computed_tokens);
}

void RunSeries::hold(const std::vector<InstanceColumns>& columns, const std::vector<LoadSnapshot::Instance>& level,
                     RunTime to) {
  for (std::size_t i = 0; i < columns.size(); ++i) {
    if (level[i].requests > 0) bins_.hold(columns[i].requests, since_, to, level[i].requests);
    if (level[i].kv_tokens > 0) bins_.hold(columns[i].kv_tokens, since_, to, static_cast<double>(level[i].kv_tokens));
  }
}

void RunSeries::count_steps(const std::vector<InstanceColumns>& columns,
                            const std::vector<LoadSnapshot::Instance>& before,
                            const std::vector<LoadSnapshot::Instance>& now, RunTime at) {
  for (std::size_t i = 0; i < columns.size(); ++i) {
    const std::uint64_t ended = now[i].steps - before[i].steps;
    if (ended == 0) continue;
    const double each = to_seconds(now[i].last_step);
    bins_.put(columns[i].steps, at, static_cast<double>(ended));
    bins_.put(columns[i].step_s, at, each * static_cast<double>(ended));
    bins_.put(columns[i].longest_s, at, each);
  }
}

void RunSeries::state(RunTime at, const LoadSnapshot& now) {
  if (!level_) {
    prefill_ = add_instances(now.prefill.size());
    decode_ = add_instances(now.decode.size());
    level_.emplace();
    level_->prefill.resize(now.prefill.size());
    level_->decode.resize(now.decode.size());
  }
  expect(now.prefill.size() == prefill_.size() && now.decode.size() == decode_.size(), "instances come and go");
  if (level_->queued > 0) bins_.hold(queued_, since_, at, static_cast<double>(level_->queued));
  bins_.put(queued_max_, at, static_cast<double>(now.queued));
  hold(prefill_, level_->prefill, at);
  hold(decode_, level_->decode, at);
  count_steps(prefill_, level_->prefill, now.prefill, at);
  count_steps(decode_, level_->decode, now.decode, at);
  level_ = now;
  since_ = at;
}

void RunSeries::misses(RunTime at, const std::map<std::string, std::uint64_t>& so_far) {
  for (const auto& [reason, blocks] : so_far) {
    std::uint64_t& before = missed_[reason];
    if (blocks == before) continue;
    const auto found = miss_columns_.find(reason);
    const std::size_t column = found != miss_columns_.end()
                                   ? found->second
                                   : miss_columns_.emplace(reason, bins_.add_column(Merge::sum)).first->second;
    bins_.put(column, at, static_cast<double>(blocks - std::exchange(before, blocks)));
  }
}

void RunSeries::add_tables(std::vector<SeriesTable>& tables, const std::string& role,
                           const std::vector<InstanceColumns>& columns) const {
  const std::size_t bins = bins_.bins(), instances = columns.size();
  const double width_s = to_seconds(bins_.width());
  const std::vector<std::size_t> shape{bins, instances};
  const std::vector<double> zero(bins * instances);
  SeriesTable requests{role + "/requests", zero, shape}, kv{role + "/kv_tokens", zero, shape},
      steps{role + "/steps", zero, shape}, mean{role + "/step_ms", zero, shape},
      longest{role + "/step_ms_max", zero, shape};
  for (std::size_t i = 0; i < instances; ++i) {
    const auto put = [&](SeriesTable& table, std::size_t column, double factor) {
      const std::vector<double> values = bins_.column(column);
      for (std::size_t bin = 0; bin < bins; ++bin) table.values[bin * instances + i] = values[bin] * factor;
    };
    put(requests, columns[i].requests, 1 / width_s);
    put(kv, columns[i].kv_tokens, 1 / width_s);
    put(steps, columns[i].steps, 1);
    put(mean, columns[i].step_s, 1e3);
    put(longest, columns[i].longest_s, 1e3);
  }
  for (std::size_t k = 0; k < mean.values.size(); ++k)
    if (steps.values[k] > 0) mean.values[k] /= steps.values[k];
  for (SeriesTable* table : {&requests, &kv, &steps, &mean, &longest})
    if (role == "decode" || table != &kv) tables.push_back(std::move(*table));
}

std::vector<SeriesTable> RunSeries::tables() const {
  const std::size_t bins = bins_.bins();
  const double width_s = to_seconds(bins_.width());
  std::vector<SeriesTable> tables;
  SeriesTable time{"time_s", std::vector<double>(bins), {bins}};
  for (std::size_t bin = 0; bin < bins; ++bin) time.values[bin] = static_cast<double>(bin) * width_s;
  tables.push_back(std::move(time));
  const auto add = [&](const std::string& name, std::size_t column) -> SeriesTable& {
    return tables.emplace_back(SeriesTable{name, bins_.column(column), {bins}});
  };
  for (double& value : add("queued", queued_).values) value /= width_s;
  add("queued_max", queued_max_);
  add("arrived", arrived_);
  add("completed", completed_);
  add("failed", failed_);
  add("output_tokens", output_);
  add("hit_tokens", hit_);
  add("computed_tokens", computed_);
  for (const auto& [reason, column] : miss_columns_) add("misses/" + reason, column);
  if (!prefill_.empty()) add_tables(tables, "prefill", prefill_);
  if (!decode_.empty()) add_tables(tables, "decode", decode_);
  return tables;
}

}  // namespace supernode::serving
