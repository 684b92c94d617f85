#pragma once
// The routed experts of an engine, as far as they can change their dies between steps.

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "moe/placement/rebalancing.hpp"
#include "runtime/emulation/die_step.hpp"

namespace supernode::serving {

/// Whether weights of experts have bytes.
enum class Weights { there, elided };

/// Layers are those of the engine's records. Slots and ranks of a placement are those of a record, without the dies that
/// hold nothing but shared experts. All calls are local.
class MovableExperts {
 public:
  virtual ~MovableExperts() = default;

  virtual moe::PlacementShape shape() const = 0;
  /// The expert of each slot when the engine begins, by layer.
  virtual std::vector<std::vector<int>> placements() const = 0;
  /// Of an expert, as its weights travel, > 0; and as they do on the emulated machine.
  virtual std::size_t expert_bytes() const = 0;
  virtual double modelled_expert_bytes() const = 0;
  virtual Weights weights() const = 0;

  /// Copies bytes of the weights of an expert that this die has. @param bytes piece.count
  virtual void read(const moe::MovePiece& piece, std::span<std::byte> bytes) = 0;
  /// Takes in bytes of one that it will have. @throws EnvironmentError where the engine knows that they are wrong
  virtual void stage(const moe::MovePiece& piece, std::span<const std::byte> bytes) = 0;
  /// Forgets what was staged for changes that will not come.
  virtual void drop_staged() = 0;
  /// The experts of a layer are in these slots from the next step on. @pre those that come have been staged
  virtual void place(int layer, const std::vector<int>& placement) = 0;

  /// Bytes of rows that this die sent to other dies in the step of this record, there and back.
  virtual double bytes_away(const emulation::DieStep& record) = 0;
};

}  // namespace supernode::serving
