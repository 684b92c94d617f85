#pragma once
// The places of a model's routed experts, which may change between steps.

#include <cstddef>
#include <span>
#include <string>
#include <vector>

namespace supernode::moe {

class Gemm;
class MoeBlock;

/// A view of a Transformer, which outlives it. Layers are those with routed experts, in order; where there is an MTP
/// module its layer is the last. Slots [r, ...) of the ranks are those of collectives::ExpertPartition; at first slot e
/// holds expert e. All calls are local, but places must be the same on all ranks at each step.
///
/// A layer's sums over experts are made rank by rank. So where experts lie decides how sums are rounded, as the number of
/// ranks does, and nothing else.
class ExpertPlaces {
 public:
  ExpertPlaces(std::vector<MoeBlock*> layers, Gemm& gemm) : layers_(std::move(layers)), gemm_(&gemm) {}

  int layers() const { return static_cast<int>(layers_.size()); }
  /// The expert of each slot.
  const std::vector<int>& placement(int layer) const;
  /// How this rank packs its experts: weights may travel between ranks that say the same; "" without any.
  /// @throws UsageError when it packs them in different ways.
  std::string format() const;
  /// Of an expert's weights as they travel; 0 on a rank without any.
  std::size_t expert_bytes() const;
  /// Copies bytes of an expert's weights from `first` on. @pre this rank has it
  void read(int layer, int expert, std::size_t first, std::span<std::byte> out);
  /// Takes in the same of an expert that this rank will have, in any order.
  void stage(int layer, int expert, std::size_t first, std::span<const std::byte> bytes);
  /// Forgets what was staged.
  void drop_staged();
  /// Experts of a layer change places. @param placement each expert once @pre those that come have been staged
  void place(int layer, std::vector<int> placement);

 private:
  MoeBlock& block(int layer) const { return *layers_.at(static_cast<std::size_t>(layer)); }

  std::vector<MoeBlock*> layers_;
  Gemm* gemm_;
};

}  // namespace supernode::moe
