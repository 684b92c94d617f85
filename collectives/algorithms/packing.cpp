#include "collectives/algorithms/packing.hpp"

#include <cstring>

namespace supernode::collectives {
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

void write_sums(const Round& round, int rank, std::byte* to, Stores stores) {
  const auto hidden = static_cast<std::size_t>(round.setup->config.hidden);
  for (int i = 0; i < round.rows_from[rank]; ++i) {
    const float* sums = round.sums + static_cast<std::size_t>(round.first_row[rank] + i) * hidden;
    std::byte* const destination = to + round.setup->combine.row_offset(i);
    write_row(round.setup->config.combine_payload, {sums, hidden}, {}, {&destination, 1}, stores);
  }
}

}  // namespace supernode::collectives
