#include "runtime/serving/coordinator/steady_load.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

#include "runtime/core/random.hpp"

namespace supernode::serving {

SteadyLoad::SteadyLoad(const SteadyOptions& options, const ServingConfig& config)
    : options_(options), limited_(decode() && config.tpot_objective_ms > 0) {
  const int dies = dies_ =
      decode() ? config.decode_instances * config.decode_dies : config.prefill_instances * config.prefill_dies;
  // More wait, so that a place that becomes free is taken at once: of decode one for each die, of prefill a whole batch.
  const int rounds = decode() ? options_.requests + 1 : 2 * options_.requests;
  for (int round = 0; round < rounds; ++round) {
    // A die gets one of each round, so all dies have contexts of all lengths; those that wait begin from the prompt.
    const bool running = decode() && round < options_.requests;
    const int done = running ? static_cast<int>((round + 0.5) / options_.requests * options_.output_tokens) : 0;
    for (int die = 0; die < dies; ++die)
      add(RunTime{}, options_.prompt_tokens + done, decode() ? options_.output_tokens - done : 1);
  }
  at_a_time_ = static_cast<std::int64_t>(dies) * options_.requests;
}

void SteadyLoad::add(RunTime at, int context, int output) {
  auto request = std::make_shared<Request>();
  request->id = next_++;
  request->arrival_s = to_seconds(at - RunTime{});
  request->max_output = std::max(1, output);
  if (decode()) {
    request->placed_tokens = context;
  } else {
    const auto group = request->id % static_cast<RequestId>(options_.prefix_groups);
    Random shared(options_.seed, ~group), own(options_.seed, request->id);  // ids begin at the other end
    const auto prefix = static_cast<int>(std::lround(options_.prefix_share * context));
    for (int i = 0; i < context; ++i)
      request->prompt.push_back(static_cast<std::int32_t>(
          (i < prefix ? shared : own).below(static_cast<std::uint64_t>(options_.vocabulary))));
  }
  coming_.emplace(at, std::move(request));
}

std::optional<Event> SteadyLoad::poll(RunTime now) {
  if (over() || coming_.empty() || coming_.begin()->first > now) return std::nullopt;
  auto entry = coming_.extract(coming_.begin());
  return Event{entry.key(), Arrived{std::move(entry.mapped())}};
}

std::optional<RunTime> SteadyLoad::next_at() const {
  return over() || coming_.empty() ? std::nullopt : std::optional(coming_.begin()->first);
}

SteadyLoad::Ends& SteadyLoad::ends_at(RunTime time) {
  if (ends_.empty() || ends_.back().time != time) ends_.push_back({time});
  return ends_.back();
}

void SteadyLoad::on_token(RequestId request, std::int32_t, RunTime time) {
  if (!decode()) return;
  // A request that is in place has its first token when it comes; that is no step.
  const auto [last, first] = last_token_.try_emplace(request, time);
  if (first) return;
  Ends& ends = ends_at(time);
  ++ends.tokens;
  if (last->second == time) return;  // a further token of the same step
  ends.took += time - std::exchange(last->second, time);
  ++ends.steps;
  ++steps_;
}

void SteadyLoad::on_end(ServedRequest served) {
  last_token_.erase(served.request->id);
  const RequestRecord& record = served.record;
  if (!decode()) {
    Ends& ends = ends_at(record.finished);
    ends.tokens += served.request->prompt_tokens();
    ends.took += record.finished - record.prefill_started;
    ++ends.steps;
    ++steps_;
  }
  if (!over()) add(record.finished, options_.prompt_tokens, decode() ? options_.output_tokens : 1);
  log_.on_end(std::move(served));
}

bool SteadyLoad::over() const { return steps_ >= options_.steps * at_a_time_; }

SteadyFigures SteadyLoad::figures() const {
  SteadyFigures figures;
  const std::int64_t from = options_.steps / 4, to = options_.steps - from;
  std::int64_t steps = 0, measured = 0, tokens = 0;
  RunSpan took{};
  RunTime begin{}, end{};
  for (const Ends& ends : ends_) {
    if (steps >= to * at_a_time_) break;
    if (steps >= from * at_a_time_) {
      measured += ends.steps;
      tokens += ends.tokens;
      took += ends.took;
      end = ends.time;
    } else {
      begin = ends.time;
    }
    steps += ends.steps;
  }
  const double seconds = to_seconds(end - begin);
  if (measured == 0 || tokens == 0 || seconds <= 0) return figures;
  // All that waited for a token, over the time: as many as were there.
  figures.requests_per_die = limited_ ? to_seconds(took) / seconds / dies_ : options_.requests;
  figures.steps = static_cast<int>(std::lround(static_cast<double>(measured) / (figures.requests_per_die * dies_)));
  figures.step_ms = to_ms(took) / static_cast<double>(measured);
  figures.tokens_per_s = static_cast<double>(tokens) / seconds;
  if (decode()) figures.tpot_ms = 1e3 * seconds * figures.requests_per_die * dies_ / static_cast<double>(tokens);
  return figures;
}

}  // namespace supernode::serving
