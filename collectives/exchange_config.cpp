#include "collectives/exchange_config.hpp"

#include "collectives/rows/layout.hpp"

namespace supernode::collectives {

std::size_t message_bytes(const ExchangeConfig& config, Phase phase, int rows) {
  if (phase == Phase::combine) return CombineLayout(config.combine_payload, config.hidden).bytes(rows);
  return DispatchLayout(config.dispatch_payload, config.hidden, config.topk, config.least_dispatch_row_bytes)
      .bytes(rows);
}

std::size_t row_bytes(const ExchangeConfig& config, Phase phase) {
  if (phase == Phase::combine) return CombineLayout(config.combine_payload, config.hidden).row_stride();
  return DispatchLayout(config.dispatch_payload, config.hidden, config.topk, config.least_dispatch_row_bytes)
      .row_stride();
}

}  // namespace supernode::collectives
