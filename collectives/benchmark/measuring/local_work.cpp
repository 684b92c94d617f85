#include "collectives/benchmark/measuring/local_work.hpp"

#include <algorithm>
#include <numeric>

namespace supernode::collectives {

LocalWork::LocalWork(const ExchangeConfig& config, int rank, std::span<const int> rows_from, Stores stores)
    : setup_(config, rank, HostMap::blocks(static_cast<int>(rows_from.size()), 1)),
      round_(setup_, 0),
      stores_(stores),
      messages_(setup_.dispatch.bytes(setup_.max_rows_out(), rows_from.size())),
      sums_in_(setup_.combine.row_stride() * setup_.max_rows_out()),
      to_(rows_from.size()) {
  std::copy(rows_from.begin(), rows_from.end(), round_.rows_from.begin());
  std::inclusive_scan(rows_from.begin(), rows_from.end(), round_.first_row.begin() + 1);
  sums_out_ = Buffer<std::byte>(setup_.combine.bytes(round_.n_rows()));
  std::fill_n(sums_in_.data(), sums_in_.size(), std::byte{0});  // what would have arrived is in the cache
}

void LocalWork::dispatch(const TokensToSend& tokens) {
  round_.plan.build(tokens.expert_ids);
  std::byte* at = messages_.data();
  for (int rank = 0; rank < setup_.n_ranks; ++rank) {
    to_[rank] = at;
    at += setup_.dispatch.bytes(round_.plan.rows_to(rank));
  }
  write_messages(setup_, round_.plan, tokens, to_, stores_);
  if (stores_ == Stores::streaming) flush_stores();
}

void LocalWork::combine(std::span<const float> sums, std::span<float> out) {
  round_.sums = sums.data();
  const std::byte* from = sums_in_.data();
  const std::size_t row_bytes = sizeof(float) * static_cast<std::size_t>(setup_.config.hidden);
  for (int rank = 0; rank < setup_.n_ranks; ++rank) {
    const auto first = static_cast<std::size_t>(round_.first_row[rank]);
    round_.sums_from[rank] = from;
    from += setup_.combine.bytes(round_.plan.rows_to(rank));
    if (!stays(rank)) {
      write_sums(round_, rank, sums_out_.data() + setup_.combine.row_stride() * first, stores_);
    } else {
      round_.sums_stride[rank] = row_bytes;
      round_.sums_from[rank] = reinterpret_cast<const std::byte*>(sums.data()) + row_bytes * first;
    }
  }
  if (stores_ == Stores::streaming) flush_stores();
  round_.add_up(out);
}

}  // namespace supernode::collectives
