#pragma once
// Which experts tokens choose, drawn instead of computed: the rows of a step's record for a run without a model.

#include <cstdint>
#include <span>
#include <vector>

#include "runtime/emulation/alias_table.hpp"
#include "runtime/emulation/die_step.hpp"
#include "runtime/emulation/expert_load.hpp"

namespace supernode::emulation {

/// Tokens of a request at positions [first, first + count).
struct TokenRange {
  std::uint64_t request = 0;
  std::int64_t first = 0;
  int count = 0;
};

/// The router of one instance; all its dies make the same one.
///
/// In each layer a token chooses `topk` slots. How much slots are used follows the load:
/// - Without `layers` all slots are used equally, and a token's slots are distinct. With them experts get copies and
///   dies by place_experts() for the forecast, a token's experts are distinct, and the copies of an expert share its
///   tokens evenly.
///   Where a record has more layers than the load, the load's first follows its last.
/// - `drift`: a slot's share is 1 + drift * z times that, at least 0; z is standard normal, one for each layer and
///   slot.
/// - `request_spread` s: a request favours some slots and avoids the others. It has 1 + s^2 times their share at
///   1 / (1 + s^2) of the slots of a layer and nothing at the others, so the mean is 1 and the variance s^2.
///
/// What a token chooses is a function of seed, request, position and layer alone. draw() is thread-safe.
class Routing {
 public:
  /// @param layers MoE layers of a record (StepSetup::record_layers)
  /// @throws std::invalid_argument for a layout that does not fit the model, and for loads that are not of as many
  /// experts or have no load at all
  Routing(const ModelShape& model, const ExpertLayout& layout, const ExpertLoad& load, std::uint64_t seed, int layers);

  /// Adds one row for each choice of each token: in every layer topk a token, or one for each expert where there are
  /// fewer. @param rows [layers][record_slots]
  /// Cost: about 4 ns a choice, with request_spread 1.2 about 11: it takes 1 + s^2 draws. Many ranges in one call are
  /// faster than many calls.
  void draw(std::span<const TokenRange> tokens, std::span<std::int32_t> rows) const;

  /// Adds the rows that `tokens` tokens of die `sender` give to the dies that hold nothing but shared experts: in every
  /// layer each token has one for each shared expert, all to the same die. Nothing where there are no such dies. Called
  /// once for all tokens of a microbatch, it loads the shared dies equally where all dies have equally many tokens.
  /// @param rows [layers][record_slots]
  void add_shared(int sender, int tokens, std::span<std::int32_t> rows) const;

  int layers() const { return static_cast<int>(layers_.size()); }
  /// The expert of each slot of a layer as it was placed at first. Without loads each slot counts as an expert.
  std::span<const std::uint32_t> first_placement(int layer) const {
    return layers_[static_cast<std::size_t>(layer)].experts;
  }
  /// From now on the experts of a layer are in these slots, each in one at least. Tokens choose the experts that they
  /// would have chosen; each row goes to one of the expert's copies, all of them alike. Which one depends on the first
  /// range of draw(), too.
  void place(int layer, std::span<const int> placement);
  /// Values of a record's rows.
  std::size_t record_size() const { return layers_.size() * record_slots_; }

 private:
  struct Layer {
    std::uint64_t choices, preferences;  ///< keys of its random numbers
    AliasTable slots;
    std::vector<std::uint32_t> experts;          ///< [slots] the expert that each holds at first; without loads itself
    std::vector<std::vector<int>> holders = {};  ///< [experts] slots now; empty: as at first
  };
  struct Draw;

  /// Draws in one layer. `favours(slot)`: whether the request of `range` does.
  template <class Favours>
  void draw_tokens(const Layer& layer, const TokenRange& range, Favours favours, Draw& draw) const;

  /// Rows that were drawn for the first slots, to where the experts are now.
  static void follow_experts(const Layer& layer, const TokenRange& first, std::span<const std::int32_t> drawn,
                             std::int32_t* rows);

  int topk_;  ///< of tokens; at most the number of distinct experts
  std::size_t slots_;
  std::size_t shared_dies_;
  int shared_experts_;
  std::size_t record_slots_;
  double spread_;
  std::vector<std::uint64_t> multipliers_;  ///< [slots]
  std::vector<Layer> layers_;
};

}  // namespace supernode::emulation
