#pragma once
// The next steps of prefill instances: which pieces of which prompts they compute. Pure.
//
// A prompt is computed in pieces of at most `chunk_tokens` (0: whole), one in a step, all on the die that began it, or, of
// at least `split_prompts` tokens (0: never), on all dies of its instance, one of which stands for it. A step takes at most `max_prefill_tokens`, or one piece that is longer. In turn:
//   1. Prompts under way go on, in the order in which they began, as long as a piece's room is left for new prompts; the
//      first one always.
//   2. New prompts begin, in the order of the queue.
//   3. What room is left goes to the prompts under way that got none.
// So a long prompt gets a piece of every step once those that began before it are done, however many short ones come,
// and short ones find room in every step, however many long ones are under way.

#include <optional>
#include <vector>

#include "runtime/serving/coordinator/fleet_state.hpp"

namespace supernode::serving {

/// The steps that are put together at one moment, one for each instance that is idle.
class PrefillSteps {
 public:
  /// With the prompts that go on. Both outlive it; `fleet` is changed by add() and take().
  PrefillSteps(const ServingConfig& config, FleetState& fleet);

  /// Where a new prompt would begin: the instance with the fewest prompt tokens left to compute, of those that are idle
  /// and have room for a piece in their step; there the die with the fewest; of equals the first. A prompt of several
  /// pieces does not begin while an instance that computes, or that has no room, has fewer left: it waits for that one's
  /// step to end. Nothing when it must wait. O(instances + prompts under way)
  std::optional<DieId> place(int prompt_tokens) const;
  /// Its first piece, there. @param decode where its KV will go
  void add(const std::shared_ptr<const Request>& request, DieId die, DieId decode);

  /// The steps that have something to do, complete. Nothing can be added any more.
  std::vector<StartStep> take();

 private:
  struct Step {
    StartStep command;
    std::int64_t tokens = 0;
  };

  PrefillInstanceState& state_of(const Step& step) const {
    return fleet_.prefill[static_cast<std::size_t>(step.command.instance.index)];
  }
  int piece_of(std::int64_t prompt_tokens) const;
  bool has_room(const Step& step, std::int64_t tokens) const {
    return step.tokens == 0 || step.tokens + tokens <= config_.max_prefill_tokens;
  }
  void go_on(Step& step, std::int64_t room);
  void add_work(Step& step, PrefillInstanceState::Prompt& prompt, int count,
                std::optional<Work::Beginning> begins = std::nullopt) const;

  const ServingConfig& config_;
  FleetState& fleet_;
  std::vector<Step> steps_;  ///< by instance
};

}  // namespace supernode::serving
