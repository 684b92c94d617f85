#include "runtime/serving/coordinator/prefill_steps.hpp"

#include <algorithm>
#include <utility>

namespace supernode::serving {

PrefillSteps::PrefillSteps(const ServingConfig& config, FleetState& fleet) : config_(config), fleet_(fleet) {
  for (std::size_t i = 0; i < fleet.prefill.size(); ++i) {
    if (!fleet.prefill[i].idle()) continue;
    Step& step = steps_.emplace_back();
    step.command.instance = {emulation::Stage::prefill, static_cast<int>(i)};
    step.command.by_die.resize(static_cast<std::size_t>(config.prefill_dies));
    go_on(step, std::int64_t{config.max_prefill_tokens} - config.chunk_tokens);
  }
}

int PrefillSteps::piece_of(std::int64_t prompt_tokens) const {
  return static_cast<int>(config_.chunk_tokens > 0 ? std::min<std::int64_t>(prompt_tokens, config_.chunk_tokens)
                                                   : prompt_tokens);
}

/// Gives prompts under way that have no piece in the step one, while it has at most `room` tokens.
void PrefillSteps::go_on(Step& step, std::int64_t room) {
  for (PrefillInstanceState::Prompt& prompt : state_of(step).prompts) {
    if (prompt.in_step > 0) continue;
    const int piece = piece_of(prompt.left());
    const std::int64_t left = step.tokens == 0 ? piece : room - step.tokens;
    if (left <= 0) break;
    add_work(step, prompt, static_cast<int>(std::min<std::int64_t>(piece, left)));
  }
}

void PrefillSteps::add_work(Step& step, PrefillInstanceState::Prompt& prompt, int count,
                            std::optional<Work::Beginning> begins) const {
  prompt.in_step = count;
  step.tokens += count;
  const Work work{prompt.request, prompt.done, count, std::move(begins),
                  prompt.shared ? std::optional(prompt.die) : std::nullopt};
  for (std::size_t die = 0; die < step.command.by_die.size(); ++die)
    if (prompt.shared || static_cast<int>(die) == prompt.die) step.command.by_die[die].push_back(work);
}

std::optional<DieId> PrefillSteps::place(int prompt_tokens) const {
  const int piece = piece_of(prompt_tokens);
  const Step* least = nullptr;
  std::int64_t fewest = 0;
  for (const Step& step : steps_) {
    if (!has_room(step, piece)) continue;
    const std::int64_t left = state_of(step).tokens_left();
    if (least && left >= fewest) continue;
    least = &step;
    fewest = left;
  }
  if (!least) return std::nullopt;
  if (piece < prompt_tokens)
    for (const PrefillInstanceState& other : fleet_.prefill)
      if (!other.lost && other.tokens_left() < fewest) return std::nullopt;
  // A prompt that all share makes no difference between them.
  std::vector<std::int64_t> by_die(static_cast<std::size_t>(config_.prefill_dies));
  for (const PrefillInstanceState::Prompt& prompt : state_of(*least).prompts)
    if (!prompt.shared) by_die[static_cast<std::size_t>(prompt.die)] += prompt.left();
  const auto die = std::min_element(by_die.begin(), by_die.end()) - by_die.begin();
  return DieId{least->command.instance.index, static_cast<int>(die)};
}

void PrefillSteps::add(const std::shared_ptr<const Request>& request, DieId die, DieId decode) {
  const auto step = std::find_if(steps_.begin(), steps_.end(),
                                 [&](const Step& one) { return one.command.instance.index == die.instance; });
  const int tokens = request->prompt_tokens();
  PrefillInstanceState::Prompt& prompt = state_of(*step).prompts.emplace_back(
      PrefillInstanceState::Prompt{request->id, die.die, 0, tokens, 0, config_.splits(tokens)});
  add_work(*step, prompt, piece_of(tokens), Work::Beginning{request, decode});
}

std::vector<StartStep> PrefillSteps::take() {
  std::vector<StartStep> commands;
  for (Step& step : steps_) {
    go_on(step, config_.max_prefill_tokens);
    if (step.tokens == 0) continue;
    // All dies of the instance step together, those without a request too.
    PrefillInstanceState& instance = state_of(step);
    for (std::size_t die = 0; die < step.command.by_die.size(); ++die)
      instance.missing_results[die] =
          static_cast<std::size_t>(std::ranges::count_if(step.command.by_die[die], [&](const Work& work) {
            return work.home.value_or(static_cast<int>(die)) == static_cast<int>(die);
          }));
    commands.push_back(std::move(step.command));
  }
  steps_.clear();
  return commands;
}

}  // namespace supernode::serving
