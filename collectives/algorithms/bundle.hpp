#pragma once
// Writing and reading bundles (see BundleLayout), for the algorithms in which a row goes once to a host.

#include "collectives/algorithms/packing.hpp"

namespace supernode::collectives {

/// Begins the bundle for `host` at `bundle`: the counts, where its members' rows go, and an empty `stream`. The rows
/// come from write_rows; the bundle then ends where the stream ends (bundle_end).
void begin_bundle(const ExchangeSetup& setup, const SendPlan& plan, int host, std::byte* bundle, RowStream& stream,
                  std::span<RowTarget> targets);
inline std::byte* bundle_end(const ExchangeSetup& setup, const RowStream& stream) {
  return stream.rows + setup.dispatch.row_stride() * static_cast<std::size_t>(stream.n_rows);
}

/// Takes what is for this rank from a bundle of `source` for this rank's host.
void read_bundle(Round& round, int source, const std::byte* bundle);

/// Rows in the bundle for the members of its host, [members].
inline std::span<const std::int32_t> bundle_counts(const std::byte* bundle, int members) {
  return {reinterpret_cast<const std::int32_t*>(bundle), static_cast<std::size_t>(members)};
}

}  // namespace supernode::collectives
