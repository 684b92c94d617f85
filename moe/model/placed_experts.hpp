#pragma once
// The routed experts of a layer: which slot holds which one, and the weights of those in this rank's slots.

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "moe/checkpoint.hpp"
#include "moe/operators/feed_forward.hpp"
#include "moe/products/gemm.hpp"

namespace supernode::moe {

/// Slots are those of collectives::ExpertPartition: this rank has the same ones all the time. At first slot e holds
/// expert e. Weights travel as they are packed, so ranks must pack alike (format()). All but the constructor is local.
class PlacedExperts {
 public:
  /// Reads this rank's experts, [first, first + count), below `prefix`. @throws UsageError as Checkpoint::read.
  PlacedExperts(Checkpoint& checkpoint, const std::string& prefix, int first, int count, ComputeType type, Gemm& gemm);

  /// Of this rank.
  int slots() const { return static_cast<int>(experts_.size()); }
  const FeedForward& in_slot(int i) const { return experts_[static_cast<std::size_t>(i)]; }
  /// The slots of chosen experts; -1 stays -1. @param slots as many as `chosen`
  void find_slots(std::span<const std::int32_t> chosen, std::int32_t* slots) const;

  /// The expert of each slot, of all ranks.
  const std::vector<int>& placement() const { return placement_; }
  /// How this rank's experts are packed; "" without any. @throws UsageError when not all are packed alike.
  std::string format(const Gemm& gemm) const;
  /// Of an expert's weights as they are packed; 0 without any.
  std::size_t expert_bytes() const;
  /// Copies bytes of the weights of an expert that this rank has, from `first` on.
  void read(int expert, std::size_t first, std::span<std::byte> out);
  /// Takes in the same of one that this rank will have.
  void stage(int expert, std::size_t first, std::span<const std::byte> bytes, Gemm& gemm);
  void drop_staged() { staged_.clear(); }
  /// Experts change their places. All of those that come to this rank have been staged as a whole, or panic; what of them
  /// is not in `placement` is thrown away. @param placement each expert once
  void place(std::vector<int> placement);

 private:
  FeedForward& find(int expert);

  int first_;  ///< slot of this rank
  std::vector<FeedForward> experts_;
  std::vector<int> placement_;
  std::vector<std::int32_t> slot_of_;  ///< of each expert
  struct Staged {
    FeedForward weights;
    std::size_t bytes = 0;  ///< that have come
  };
  std::map<int, Staged> staged_;  ///< by expert
};

}  // namespace supernode::moe
