#include "collectives/algorithms/round.hpp"

#include <algorithm>
#include <cstring>

namespace supernode::collectives {

RoundBuffers::RoundBuffers(const ExchangeSetup& exchange_setup, int set_number)
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

std::size_t RoundBuffers::bytes(const ExchangeSetup& setup) {
  const auto ranks = static_cast<std::size_t>(setup.n_ranks);
  return SendPlan::bytes(setup.experts, setup.config.topk, setup.config.max_tokens) +
         setup.max_rows_in() *
             (sizeof(std::byte*) + sizeof(float) + static_cast<std::size_t>(setup.config.topk) * sizeof(RoutingPlace)) +
         ranks * (sizeof(ArrivedRows) + sizeof(std::byte*) + 2 * sizeof(int) + sizeof(std::size_t)) +
         static_cast<std::size_t>(setup.experts.max_count()) * sizeof(int);
}

void RoundBuffers::index_rows() {
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

void RoundBuffers::add_up(std::span<float> out) const {
  const auto hidden = static_cast<std::size_t>(setup->config.hidden);
  for (int token = 0; token < plan.n_tokens(); ++token) {
    std::size_t n = 0;
    for (const Send send : plan.sends_of(token))
      contributions_[n++] = sums_from[send.rank] + sums_stride[send.rank] * static_cast<std::size_t>(send.index);
    sum_rows(setup->config.combine_payload, {contributions_.data(), n},
             out.subspan(static_cast<std::size_t>(token) * hidden, hidden));
  }
}

namespace {

/// The loop over tokens. routing_at(rank): its first record. row_at(token, send): where the row goes, or null when it
/// lies there already.
template <class RoutingAt, class RowAt>
void write_tokens(const ExchangeSetup& setup, const SendPlan& plan, const TokensToSend& tokens, RoutingAt&& routing_at,
                  RowAt&& row_at, Stores stores) {
  const auto hidden = static_cast<std::size_t>(setup.config.hidden);
  const auto topk = static_cast<std::size_t>(setup.config.topk);
  std::byte* destinations[64];
  for (int token = 0; token < plan.n_tokens(); ++token) {
    const auto sends = plan.sends_of(token);
    if (sends.empty()) continue;
    const auto t = static_cast<std::size_t>(token);
    const std::span<const float> row = tokens.rows.subspan(t * hidden, hidden);
    const RowScale scale = row_scale(setup.config.dispatch_payload, row);
    std::size_t n = 0;
    for (const Send send : sends) {
      std::byte* routing = routing_at(send.rank) + setup.dispatch.routing_offset(send.index);
      RoutingHead head{scale.scale, 0};
      for (std::size_t k = 0; k < topk; ++k) {
        const std::int32_t expert = tokens.expert_ids[t * topk + k];
        if (expert < 0 || plan.rank_of(expert) != send.rank) continue;
        const RoutingPlace place{expert - setup.experts.first(send.rank), tokens.weights[t * topk + k]};
        std::memcpy(routing + sizeof head + sizeof place * static_cast<std::size_t>(head.n_experts), &place,
                    sizeof place);
        ++head.n_experts;
      }
      std::memcpy(routing, &head, sizeof head);
      if (std::byte* const to = row_at(token, send)) destinations[n++] = to;
      if (n == std::size(destinations)) {
        write_row(setup.config.dispatch_payload, row, scale, {destinations, n}, stores);
        n = 0;
      }
    }
    if (n > 0) write_row(setup.config.dispatch_payload, row, scale, {destinations, n}, stores);
  }
}

}  // namespace

void RoundBuffers::set_arrived(int source, const std::byte* message, int rows) {
  rows_from[source] = rows;
  arrived[source] = {message, message + setup->dispatch.row_offset(rows, 0), nullptr};
}

void RoundBuffers::keep_own_sums() {
  const std::size_t row_bytes = sizeof(float) * static_cast<std::size_t>(setup->config.hidden);
  sums_stride[setup->rank] = row_bytes;
  sums_from[setup->rank] =
      reinterpret_cast<const std::byte*>(sums) + row_bytes * static_cast<std::size_t>(first_row[setup->rank]);
}

void write_messages(const ExchangeSetup& setup, const SendPlan& plan, const TokensToSend& tokens,
                    std::span<std::byte* const> to, Stores stores) {
  write_tokens(
      setup, plan, tokens, [&](int rank) { return to[rank]; },
      [&](int, Send send) { return to[send.rank] + setup.dispatch.row_offset(plan.rows_to(send.rank), send.index); },
      stores);
}

void write_rows(const ExchangeSetup& setup, const SendPlan& plan, const TokensToSend& tokens,
                std::span<const RowTarget> targets, Stores stores) {
  const std::size_t stride = setup.dispatch.row_stride();
  write_tokens(
      setup, plan, tokens, [&](int rank) { return targets[rank].routing; },
      [&](int token, Send send) -> std::byte* {
        const RowTarget& target = targets[send.rank];
        RowStream& stream = *target.stream;
        const bool fresh = stream.last_token != token;
        if (fresh) {
          stream.last_token = token;
          ++stream.n_rows;
        }
        const std::int32_t place = stream.n_rows - 1;
        if (target.index) target.index[send.index] = place;
        return fresh ? stream.rows + stride * static_cast<std::size_t>(place) : nullptr;
      },
      stores);
}

void write_sums(const RoundBuffers& round, int rank, std::byte* to, Stores stores) {
  const auto hidden = static_cast<std::size_t>(round.setup->config.hidden);
  for (int i = 0; i < round.rows_from[rank]; ++i) {
    const float* sums = round.sums + static_cast<std::size_t>(round.first_row[rank] + i) * hidden;
    std::byte* const destination = to + round.setup->combine.row_offset(i);
    write_row(round.setup->config.combine_payload, {sums, hidden}, {}, {&destination, 1}, stores);
  }
}

}  // namespace supernode::collectives
