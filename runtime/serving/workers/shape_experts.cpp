#include "runtime/serving/workers/shape_experts.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "runtime/core/error.hpp"
#include "runtime/core/random.hpp"
#include "runtime/emulation/moe_stage.hpp"

namespace supernode::serving {
namespace {

/// Byte `offset` of an expert's weights: neither another expert's nor one at another place has the same ones around it.
std::byte pattern(const moe::MovePiece& piece, std::size_t offset) {
  const auto expert = (static_cast<std::uint64_t>(piece.layer) << 32) + static_cast<std::uint64_t>(piece.expert);
  return static_cast<std::byte>((mix64(expert) + offset + (offset >> 8) * 7) & 0xff);
}

}  // namespace

moe::PlacementShape ShapeExperts::shape() const {
  const ShapeOptions& options = engine_.options();
  const emulation::ExpertLayout& layout = options.setup.layout;
  const int slots = layout.slots(options.model);
  // Where all slots are used alike each one counts as an expert, without copies.
  return {.experts = options.load.layers.empty() ? slots : options.model.experts,
          .slots = slots,
          .ranks = layout.routed_dies()};
}

std::vector<std::vector<int>> ShapeExperts::placements() const {
  std::vector<std::vector<int>> all;
  for (int layer = 0; layer < engine_.routing().layers(); ++layer) {
    const std::span<const std::uint32_t> experts = engine_.routing().first_placement(layer);
    all.emplace_back(experts.begin(), experts.end());
  }
  return all;
}

void ShapeExperts::read(const moe::MovePiece& piece, std::span<std::byte> bytes) {
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = pattern(piece, piece.first + i);
}

void ShapeExperts::stage(const moe::MovePiece& piece, std::span<const std::byte> bytes) {
  for (std::size_t i = 0; i < bytes.size(); ++i)
    if (bytes[i] != pattern(piece, piece.first + i))
      throw EnvironmentError(fmt::format("weights of expert {} of layer {} came with a wrong byte: number {}",
                                         piece.expert, piece.layer, piece.first + i));
}

double ShapeExperts::bytes_away(const emulation::DieStep& record) {
  const ShapeOptions& options = engine_.options();
  const emulation::ExpertLayout& layout = options.setup.layout;
  const auto slots = static_cast<std::size_t>(layout.slots(options.model)),
             row = static_cast<std::size_t>(emulation::record_slots(layout, options.model)),
             of_die = slots / static_cast<std::size_t>(layout.routed_dies());
  const auto die = static_cast<std::size_t>(options.die), dies = static_cast<std::size_t>(layout.routed_dies());
  const std::size_t first = die < dies ? die * of_die : slots + die - dies, last = first + (die < dies ? of_die : 1);
  double rows = 0;
  for (const emulation::MicrobatchStep& part : record.microbatches)
    for (std::size_t i = 0; i < part.rows.size(); ++i)
      if (const std::size_t slot = i % row; slot < first || slot >= last) rows += part.rows[i];
  return rows * (emulation::dispatch_message_bytes(options.model.hidden, options.setup.exchange) +
                 emulation::combine_message_bytes(options.model.hidden));
}

}  // namespace supernode::serving
