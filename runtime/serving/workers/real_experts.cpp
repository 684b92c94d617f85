#include "runtime/serving/workers/real_experts.hpp"

#include <utility>

#include "runtime/core/error.hpp"

namespace supernode::serving {

RealExperts::RealExperts(moe::Transformer& model, int dies, int layers)
    : model_(model),
      places_(model.expert_places()),
      dies_(dies),
      layers_(layers),
      counted_(model.exchanged_bytes_away()) {
  expect(layers <= places_.layers() && model.config().n_routed_experts % dies == 0, "experts that can be moved");
}

moe::PlacementShape RealExperts::shape() const {
  const int experts = model_.config().n_routed_experts;
  return {.experts = experts, .slots = experts, .ranks = dies_};
}

std::vector<std::vector<int>> RealExperts::placements() const {
  std::vector<std::vector<int>> all;
  for (int layer = 0; layer < layers_; ++layer) all.push_back(places_.placement(layer));
  return all;
}

double RealExperts::modelled_expert_bytes() const {
  return 3.0 * model_.config().hidden_size * model_.config().moe_intermediate_size;
}

double RealExperts::bytes_away(const emulation::DieStep&) {
  const std::uint64_t now = model_.exchanged_bytes_away();
  return static_cast<double>(now - std::exchange(counted_, now));
}

}  // namespace supernode::serving
