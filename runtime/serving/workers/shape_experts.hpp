#pragma once
// The experts of an engine that computes nothing: they have places, and where payload is carried weights that are a
// pattern.

#include "runtime/serving/workers/movable_experts.hpp"
#include "runtime/serving/workers/shape_engine.hpp"

namespace supernode::serving {

/// An expert's weights are as large as the emulated machine's, a byte a weight. Whoever takes them in checks the pattern.
class ShapeExperts : public MovableExperts {
 public:
  /// @param engine borrowed
  ShapeExperts(ShapeEngine& engine, Weights weights) : engine_(engine), weights_(weights) {}

  moe::PlacementShape shape() const override;
  std::vector<std::vector<int>> placements() const override;
  std::size_t expert_bytes() const override { return static_cast<std::size_t>(modelled_expert_bytes()); }
  double modelled_expert_bytes() const override { return engine_.options().model.expert_weights(); }
  Weights weights() const override { return weights_; }
  void read(const moe::MovePiece& piece, std::span<std::byte> bytes) override;
  void stage(const moe::MovePiece& piece, std::span<const std::byte> bytes) override;
  void drop_staged() override {}
  void place(int layer, const std::vector<int>& placement) override { engine_.place_experts(layer, placement); }
  /// Rows have the emulated machine's sizes; those to shared experts count, too.
  double bytes_away(const emulation::DieStep& record) override;

 private:
  ShapeEngine& engine_;
  const Weights weights_;
};

}  // namespace supernode::serving
