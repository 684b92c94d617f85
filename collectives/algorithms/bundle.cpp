#include "collectives/algorithms/bundle.hpp"

namespace supernode::collectives {

void begin_bundle(const ExchangeSetup& setup, const SendPlan& plan, int host, std::byte* bundle, RowStream& stream,
                  std::span<RowTarget> targets) {
  const BundleLayout layout(setup.dispatch);
  auto* counts = reinterpret_cast<std::int32_t*>(bundle);
  const auto members = setup.hosts.members(host);
  std::byte* at = bundle + BundleLayout::head_bytes(static_cast<int>(members.size()));
  for (std::size_t member = 0; member < members.size(); ++member) {
    const int rank = members[member], rows = plan.rows_to(rank);
    counts[member] = rows;
    targets[rank] = {at, reinterpret_cast<std::int32_t*>(at + layout.index_offset(rows)), &stream};
    at += layout.member_bytes(rows);
  }
  stream = {at, 0, -1};
}

void read_bundle(Round& round, int source, const std::byte* bundle) {
  const ExchangeSetup& setup = *round.setup;
  const BundleLayout layout(setup.dispatch);
  const auto counts = bundle_counts(bundle, setup.n_local());
  const auto self = static_cast<std::size_t>(setup.hosts.member_of(setup.rank));
  const std::byte* at = bundle + BundleLayout::head_bytes(setup.n_local());
  ArrivedRows arrived;
  for (std::size_t member = 0; member < counts.size(); ++member) {
    if (member == self) {
      arrived.routing = at;
      arrived.index = reinterpret_cast<const std::int32_t*>(at + layout.index_offset(counts[member]));
    }
    at += layout.member_bytes(counts[member]);
  }
  arrived.rows = at;
  round.arrived[source] = arrived;
  round.rows_from[source] = counts[self];
}

}  // namespace supernode::collectives
