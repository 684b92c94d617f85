#pragma once
// The experts of a model that computes.

#include "moe/transformer.hpp"
#include "runtime/serving/workers/movable_experts.hpp"

namespace supernode::serving {

class RealExperts : public MovableExperts {
 public:
  /// Borrows the model, whose experts divide over `dies` dies. @param layers with experts that steps record: those of the
  /// model, and with guesses the module's
  RealExperts(moe::Transformer& model, int dies, int layers);

  moe::PlacementShape shape() const override;
  std::vector<std::vector<int>> placements() const override;
  std::size_t expert_bytes() const override { return places_.expert_bytes(); }
  /// A byte for each weight, as the emulated machine holds them.
  double modelled_expert_bytes() const override;
  Weights weights() const override { return Weights::there; }
  void read(const moe::MovePiece& piece, std::span<std::byte> bytes) override {
    places_.read(piece.layer, piece.expert, piece.first, bytes);
  }
  void stage(const moe::MovePiece& piece, std::span<const std::byte> bytes) override {
    places_.stage(piece.layer, piece.expert, piece.first, bytes);
  }
  void drop_staged() override { places_.drop_staged(); }
  void place(int layer, const std::vector<int>& placement) override { places_.place(layer, placement); }
  /// As the model's exchange counted them: a row to a die that holds several of a token's experts is one.
  double bytes_away(const emulation::DieStep& record) override;

 private:
  moe::Transformer& model_;
  moe::ExpertPlaces places_;
  const int dies_, layers_;
  std::uint64_t counted_;  ///< of the model's bytes, so far
};

}  // namespace supernode::serving
