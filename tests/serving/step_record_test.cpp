// The record of a step as bytes, and the closed loop of a steady load.
#include "runtime/serving/record/step_record.hpp"

#include <algorithm>

#include "runtime/core/error.hpp"
#include "runtime/serving/coordinator/steady_load.hpp"
#include "tests/support/catch.hpp"

using namespace supernode;
using namespace supernode::serving;
using namespace std::chrono_literals;
using Catch::Matchers::Contains;

namespace {

StartedStep some_step() {
  StartedStep started;
  started.start = RunTime(123456789ns);
  for (const int scale : {1, 1000}) {
    emulation::MicrobatchStep part;
    part.work.add(2, 4096);
    part.work.add(1, 17);
    // Around the counts that a byte holds.
    for (const int rows : {0, 1, 253, 254, 255, 256, 7}) part.rows.push_back(rows * scale);
    started.step.microbatches.push_back(part);
  }
  started.step.loads = {{3, 1.5e9}, {0, 7}};
  started.step.slowness = 2.5;
  return started;
}

ServedRequest ended(std::shared_ptr<const Request> request, RunTime start, RunTime end) {
  ServedRequest served;
  served.request = std::move(request);
  served.record.prefill_started = start;
  served.record.finished = end;
  served.ended = {EndReason::length};
  return served;
}

std::shared_ptr<const Request> next(SteadyLoad& load, RunTime now) {
  const std::optional<Event> event = load.poll(now);
  return event ? std::get<Arrived>(event->what).request : nullptr;
}

}  // namespace

TEST_CASE("a record comes back as it was") {
  const StartedStep step = some_step();
  const StartedStep back = decode_step(encode_step(step));
  CHECK(back.start == step.start);
  REQUIRE(back.step.microbatches.size() == 2);
  for (std::size_t i = 0; i < 2; ++i) {
    const emulation::MicrobatchStep &one = step.step.microbatches[i], &other = back.step.microbatches[i];
    CHECK(other.rows == one.rows);
    CHECK(other.work.sequences == one.work.sequences);
    CHECK(other.work.tokens == one.work.tokens);
    CHECK(other.work.context == one.work.context);
    CHECK(other.work.attended == one.work.attended);
  }
  REQUIRE(back.step.loads.size() == 2);
  CHECK(back.step.slowness == 2.5);
  CHECK(back.step.loads[0].owner == 3);
  CHECK(back.step.loads[0].bytes == 1.5e9);
}

TEST_CASE("a record that is cut, too long or of another version is refused") {
  const std::vector<std::byte> good = encode_step(some_step());
  for (std::size_t size = 0; size < good.size(); ++size)
    CHECK_THROWS_AS(decode_step(std::span(good).first(size)), EnvironmentError);
  std::vector<std::byte> bad = good;
  bad.push_back({});
  CHECK_THROWS_WITH(decode_step(bad), Contains("too long"));
  bad = good;
  bad[0] = std::byte{9};
  CHECK_THROWS_WITH(decode_step(bad), Contains("of version 9"));
}

TEST_CASE("a steady decode load spreads contexts, replaces what ends, and measures its middle") {
  ServingConfig config;
  config.decode_instances = 1;
  config.decode_dies = 2;
  SteadyLoad load(
      {.stage = SteadyOptions::Stage::decode, .requests = 2, .prompt_tokens = 100, .output_tokens = 40, .steps = 8},
      config);
  std::vector<std::shared_ptr<const Request>> running;
  while (const auto request = next(load, RunTime{})) running.push_back(request);
  // One for each die waits for a place.
  REQUIRE(running.size() == 6);
  CHECK(running[5]->placed_tokens == 100);
  CHECK(running[5]->max_output == 40);
  running.resize(4);
  // One of each context for each die, in this order; what is left of the answer is shorter for longer contexts.
  for (std::size_t i = 0; i < 4; ++i) {
    CHECK(running[i]->placed_tokens == (i < 2 ? 110 : 130));
    CHECK(running[i]->max_output == (i < 2 ? 30 : 10));
    load.on_token(running[i]->id, 0, RunTime{});  // in place: no step
  }
  CHECK_FALSE(load.over());
  // Iterations of 10 ms; every other gives each request two tokens.
  for (int step = 1; step <= 8; ++step) {
    CHECK_FALSE(load.over());
    for (const auto& request : running) {
      load.on_token(request->id, 0, RunTime(step * 10ms));
      if (step % 2 == 0) load.on_token(request->id, 0, RunTime(step * 10ms));
    }
  }
  CHECK(load.over());
  CHECK(load.closed());
  const SteadyFigures figures = load.figures();
  CHECK(figures.steps == 4);
  CHECK(figures.step_ms == Approx(10));
  CHECK(figures.tokens_per_s == Approx(4 * 1.5 / 0.01));
  CHECK(figures.tpot_ms == Approx(10 / 1.5));
}

TEST_CASE("a steady load under an objective is of as many requests as it allows") {
  ServingConfig config;
  config.decode_instances = 1;
  config.decode_dies = 2;
  config.tpot_objective_ms = 5;
  SteadyLoad load(
      {.stage = SteadyOptions::Stage::decode, .requests = 4, .prompt_tokens = 100, .output_tokens = 40, .steps = 8},
      config);
  std::vector<std::shared_ptr<const Request>> running;
  while (const auto request = next(load, RunTime{})) running.push_back(request);
  running.resize(2);  // one on each die: a fourth of what was asked for
  for (const auto& request : running) load.on_token(request->id, 0, RunTime{});
  int step = 0;
  while (!load.over()) {
    ++step;
    for (const auto& request : running) load.on_token(request->id, 0, RunTime(step * 10ms));
  }
  CHECK(step == 32);  // as many steps of requests
  const SteadyFigures figures = load.figures();
  CHECK(figures.requests_per_die == Approx(1));
  CHECK(figures.steps == 16);
  CHECK(figures.tpot_ms == Approx(10));
  CHECK(figures.tokens_per_s == Approx(200));
}

TEST_CASE("prompts of a steady load have their group's prefix in common") {
  ServingConfig config;
  config.prefill_instances = 1;
  config.prefill_dies = 2;
  SteadyLoad load({.stage = SteadyOptions::Stage::prefill,
                   .requests = 2,
                   .prompt_tokens = 40,
                   .prefix_share = 0.5,
                   .prefix_groups = 2,
                   .vocabulary = 1000},
                  config);
  std::vector<std::vector<std::int32_t>> prompts;
  while (const auto request = next(load, RunTime{})) prompts.push_back(request->prompt);
  REQUIRE(prompts.size() >= 4);
  const auto common = [&](std::size_t a, std::size_t b) {
    return std::mismatch(prompts[a].begin(), prompts[a].end(), prompts[b].begin()).first - prompts[a].begin();
  };
  CHECK(common(0, 2) == 20);
  CHECK(common(1, 3) == 20);
  CHECK(common(0, 1) == 0);
}

TEST_CASE("a request of a steady load that ends is replaced at once") {
  ServingConfig config;
  config.prefill_instances = 1;
  config.prefill_dies = 1;
  SteadyLoad load(
      {.stage = SteadyOptions::Stage::prefill, .requests = 1, .prompt_tokens = 8, .steps = 4, .vocabulary = 5}, config);
  const auto first = next(load, RunTime{}), second = next(load, RunTime{});
  REQUIRE(first);
  REQUIRE(second);  // waits, so that the instance finds it
  CHECK(first->prompt_tokens() == 8);
  CHECK(first->max_output == 1);
  CHECK(first->prompt != second->prompt);
  CHECK_FALSE(next(load, RunTime{}));
  load.on_end(ended(first, RunTime{}, RunTime(3ms)));
  CHECK(load.next_at() == RunTime(3ms));
  const auto third = next(load, RunTime(3ms));
  REQUIRE(third);
  load.on_end(ended(second, RunTime(3ms), RunTime(6ms)));
  load.on_end(ended(third, RunTime(6ms), RunTime(9ms)));
  load.on_end(ended(next(load, RunTime(9ms)), RunTime(9ms), RunTime(12ms)));
  CHECK(load.over());
  CHECK(load.figures().step_ms == Approx(3));
  CHECK(load.figures().tokens_per_s == Approx(8 / 0.003));
}
