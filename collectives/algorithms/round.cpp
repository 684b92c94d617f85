#include "collectives/algorithms/round.hpp"

#include <algorithm>
#include <cstring>

#include "runtime/core/quantise.hpp"

namespace supernode::collectives {

Round::Round(const ExchangeSetup& exchange_setup, int set_number)
    : setup(&exchange_setup),
      set(set_number),
      plan(setup->experts, setup->config.topk, setup->config.max_tokens),
      arrived(setup->n_ranks),
      rows_from(setup->n_ranks),
      first_row(setup->n_ranks + 1),
      row(setup->max_rows_in()),
      scale(setup->max_rows_in()),
      expert_offset(setup->experts.count(setup->rank) + 1),
      expert_row(setup->max_rows_in() * setup->config.topk),
      expert_weight(setup->max_rows_in() * setup->config.topk),
      sums_from(setup->n_ranks),
      sums_stride(setup->n_ranks, setup->combine.row_stride()),
      contributions_(std::min(setup->config.topk, setup->n_ranks)) {}

// One line for each list of the constructor; a test holds the sum against what rounds have allocated.
std::size_t Round::bytes(const ExchangeSetup& setup) {
  const auto ranks = static_cast<std::size_t>(setup.n_ranks);
  const auto topk = static_cast<std::size_t>(setup.config.topk);
  return SendPlan::bytes(setup.experts, setup.config.topk, setup.config.max_tokens) +
         ranks * (sizeof(ArrivedRows) + sizeof(int)) +                                    // arrived, rows_from
         (ranks + 1) * sizeof(int) +                                                      // first_row
         setup.max_rows_in() * (sizeof(std::byte*) + sizeof(float)) +                     // row, scale
         (static_cast<std::size_t>(setup.experts.count(setup.rank)) + 1) * sizeof(int) +  // expert_offset
         setup.max_rows_in() * topk * (sizeof(std::int32_t) + sizeof(float)) +            // expert_row, expert_weight
         ranks * (sizeof(std::byte*) + sizeof(std::size_t)) +                             // sums_from, sums_stride
         std::min(topk, ranks) * sizeof(std::byte*);                                      // contributions_
}

std::size_t Round::allocated_bytes() const {
  const auto bytes_of = [](const auto&... lists) { return ((lists.size() * sizeof(*lists.data())) + ...); };
  return plan.allocated_bytes() + bytes_of(arrived, rows_from, first_row, row, scale, expert_offset, expert_row,
                                           expert_weight, sums_from, sums_stride, contributions_);
}

void Round::index_rows() {
  const DispatchLayout& layout = setup->dispatch;
  const auto record_of = [&](int source, int i) { return arrived[source].routing + layout.routing_offset(i); };
  const auto head_of = [&](int source, int i) {
    RoutingHead head;
    std::memcpy(&head, record_of(source, i), sizeof head);
    return head;
  };
  const auto places_of = [&](int source, int i) { return record_of(source, i) + sizeof(RoutingHead); };
  const auto place_at = [](const std::byte* places, int k) {
    RoutingPlace place;
    std::memcpy(&place, places + sizeof place * static_cast<std::size_t>(k), sizeof place);
    return place;
  };

  // Counting sort by expert; rows are visited in order, so every expert's list ascends.
  std::fill(expert_offset.begin(), expert_offset.end(), 0);
  int n = 0;
  for (int source = 0; source < setup->n_ranks; ++source) {
    first_row[source] = n;
    for (int i = 0; i < rows_from[source]; ++i, ++n) {
      const RoutingHead head = head_of(source, i);
      const ArrivedRows& from = arrived[source];
      row[n] = from.rows + layout.row_stride() * static_cast<std::size_t>(from.index ? from.index[i] : i);
      scale[n] = head.scale;
      for (int k = 0; k < head.n_experts; ++k) ++expert_offset[place_at(places_of(source, i), k).local_expert];
    }
  }
  first_row[setup->n_ranks] = n;
  int end = 0;
  for (int& offset : expert_offset) offset = end += offset;
  // Each offset is now the end of its expert's list, and moves back to its begin while the list is filled from behind.
  for (int source = setup->n_ranks; source-- > 0;)
    for (int i = rows_from[source]; i-- > 0;) {
      --n;
      for (int k = head_of(source, i).n_experts; k-- > 0;) {
        const RoutingPlace place = place_at(places_of(source, i), k);
        const int at = --expert_offset[place.local_expert];
        expert_row[at] = n;
        expert_weight[at] = place.weight;
      }
    }
}

void Round::add_up(std::span<float> out) const {
  const auto hidden = static_cast<std::size_t>(setup->config.hidden);
  for (int token = 0; token < plan.n_tokens(); ++token) {
    std::size_t n = 0;
    for (const Send send : plan.sends_of(token))
      contributions_[n++] = sums_from[send.rank] + sums_stride[send.rank] * static_cast<std::size_t>(send.index);
    sum_rows(setup->config.combine_payload, {contributions_.data(), n},
             out.subspan(static_cast<std::size_t>(token) * hidden, hidden));
  }
}

void Round::set_arrived(int source, const std::byte* message, int rows) {
  rows_from[source] = rows;
  arrived[source] = {message, message + setup->dispatch.row_offset(rows, 0), nullptr};
}

void Round::keep_own_sums() {
  const std::size_t row_bytes = sizeof(float) * static_cast<std::size_t>(setup->config.hidden);
  sums_stride[setup->rank] = row_bytes;
  sums_from[setup->rank] =
      reinterpret_cast<const std::byte*>(sums) + row_bytes * static_cast<std::size_t>(first_row[setup->rank]);
}

}  // namespace supernode::collectives
