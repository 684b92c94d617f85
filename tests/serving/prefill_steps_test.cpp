// Prompts in pieces: which step computes which piece, and that neither long prompts nor short ones starve.
#include <algorithm>
#include <map>

#include "runtime/core/random.hpp"
#include "tests/serving/fake_fleet.hpp"

using namespace supernode;
using namespace supernode::serving;
using namespace supernode::serving::test;

namespace {

ServingConfig one_instance(int chunk_tokens, int max_prefill_tokens) {
  ServingConfig config;
  config.prefill_instances = 1;
  config.chunk_tokens = chunk_tokens;
  config.max_prefill_tokens = max_prefill_tokens;
  return config;
}

int tokens_of(const StartStep& step) {
  int tokens = 0;
  for (const std::vector<Work>& works : step.by_die)
    for (const Work& work : works) tokens += work.count;
  return tokens;
}

}  // namespace

TEST_CASE("a prompt longer than a piece is computed over several steps of one die, behind what the pool has") {
  ServingConfig config = one_instance(60, 1000);
  config.prefill_dies = 3;
  FakeFleet fleet(config, some_requests(2, 400, 3));  // the fake pool has half of each prompt
  const std::vector<ServedRequest> all = fleet.run();
  for (const ServedRequest& served : all) {
    CHECK(served.record.tokens.size() == 3);
    CHECK(served.record.hit_tokens == 200);
    CHECK(served.record.computed_tokens == 200);
    CHECK(served.record.pool == 4us);  // each piece says 1 us
    CHECK(fleet.pieces.at(served.request->id).size() == 4);
  }
  CHECK(fleet.prefill_die.at(all[0].request->id) != fleet.prefill_die.at(all[1].request->id));
}

TEST_CASE("a short prompt does not wait for a long one before it") {
  std::vector<Request> requests = some_requests(2, 20'000, 2, 0.001);
  requests[1].prompt.resize(50);
  const auto ttft = [&](int chunk_tokens) {
    const ServingConfig config = one_instance(chunk_tokens, 1000);
    FakeFleet fleet(config, requests);
    fleet.prefill_span = [](std::size_t tokens) { return tokens * 10us; };
    const std::vector<ServedRequest> all = fleet.run();
    return std::pair(all[0].record.first_token - all[0].record.arrived,
                     all[1].record.first_token - all[1].record.arrived);
  };
  const auto whole = ttft(0), pieces = ttft(500);
  CHECK(whole.second > whole.first - 1ms);  // it comes a millisecond later
  // The rest of a running step, then one that it shares.
  CHECK(pieces.second <= 500 * 10us + 550 * 10us);
  CHECK(pieces.first <= whole.first);
}

TEST_CASE("a long prompt gets a piece of every step, however many short ones come") {
  std::vector<Request> requests = some_requests(400, 90, 2, 0.001);
  requests[3].prompt.resize(2000, 1);
  const ServingConfig config = one_instance(100, 300);
  FakeFleet fleet(config, requests);
  fleet.run();
  const std::vector<std::size_t>& pieces = fleet.pieces.at(requests[3].id);
  CHECK(pieces.size() == 10);
  CHECK(pieces.back() - pieces.front() == 9);
}

TEST_CASE("short prompts find room in every step, however many long ones are under way") {
  std::vector<Request> requests = some_requests(60, 4000, 2);
  for (std::size_t i = 20; i < requests.size(); ++i) {
    requests[i].prompt.resize(80);
    requests[i].arrival_s = 0.5;
  }
  ServingConfig config = one_instance(100, 400);
  FakeFleet fleet(config, requests);
  const std::vector<ServedRequest> all = fleet.run();
  // 20 times 2,000 tokens are to be computed, 400 in 5 ms. One short prompt begins in each step at least.
  for (std::size_t i = 20; i < all.size(); ++i)
    CHECK(all[i].record.first_token - all[i].record.arrived <= (i - 20 + 2) * 5ms);
}

TEST_CASE("a prompt of several pieces goes to the instance with the fewest tokens left, if it has to wait for it") {
  ServingConfig config = one_instance(100, 1000);
  config.prefill_instances = 2;
  std::vector<Request> requests = some_requests(4, 6000, 2);
  requests[1].prompt.resize(600);
  requests[2].arrival_s = 0.007;
  requests[3].prompt.resize(10);
  requests[3].arrival_s = 0.007;
  FakeFleet fleet(config, requests);
  // At 10 ms the first instance is between two steps, with much left; the second one is still computing.
  fleet.prefill_span = [&](std::size_t) { return fleet.batches.size() == 4 ? 6ms : 5ms; };
  const std::vector<ServedRequest> all = fleet.run();
  CHECK(fleet.prefill_die.at(requests[0].id).instance == 0);
  CHECK(fleet.prefill_die.at(requests[1].id).instance == 1);
  CHECK(fleet.prefill_die.at(requests[2].id).instance == 1);
  // What comes after it overtakes it no more than anywhere.
  CHECK(all[3].record.prefill_started >= all[2].record.prefill_started);
}

TEST_CASE("in any mixture steps keep their budget, the queue its order, and only a full step leaves a prompt out") {
  for (std::uint64_t round = 0; round < 200; ++round) {
    INFO("round " << round);
    Random random(round, 2);
    const auto one_of = [&](std::vector<int> values) { return values[random.below(values.size())]; };
    ServingConfig config = one_instance(one_of({0, 16, 64, 200}), one_of({64, 200, 1000}));
    config.prefill_instances = one_of({1, 2, 3});
    config.prefill_dies = one_of({1, 3});
    config.decode_kv_tokens = one_of({5'000, 1'000'000});
    std::vector<Request> requests = some_requests(40, 1, 2, one_of({0, 1, 3}) * 1e-3);
    for (Request& request : requests)
      request.prompt.resize(random.below(4) == 0 ? 1 + random.below(2000) : 1 + random.below(60), 1);
    FakeFleet fleet(config, requests);
    const std::vector<ServedRequest> all = fleet.run();
    CHECK(all.size() == requests.size());
    for (std::size_t i = 1; i < all.size(); ++i)
      CHECK(all[i].record.prefill_started >= all[i - 1].record.prefill_started);

    std::vector<std::vector<std::size_t>> steps(3);  // of each instance
    for (std::size_t step = 0; step < fleet.batches.size(); ++step) {
      const StartStep& batch = fleet.batches[step];
      steps[static_cast<std::size_t>(batch.instance.index)].push_back(step);
      std::size_t works = 0;
      for (const std::vector<Work>& die : batch.by_die) {
        works += die.size();
        for (const Work& work : die) CHECK((config.chunk_tokens == 0 || work.count <= config.chunk_tokens));
      }
      CHECK((tokens_of(batch) <= config.max_prefill_tokens || works == 1));
    }
    for (const auto& [request, mine] : fleet.pieces)
      for (const std::size_t step : steps[static_cast<std::size_t>(fleet.prefill_die.at(request).instance)])
        if (step > mine.front() && step < mine.back() && !std::binary_search(mine.begin(), mine.end(), step))
          CHECK(tokens_of(fleet.batches[step]) >= config.max_prefill_tokens);
  }
}

TEST_CASE("a prefill die serves a group of decode dies of its own") {
  // As published for 32 prefill and 320 decode dies: groups of ten.
  for (int die = 0; die < 320; ++die)
    for (int prefill = 0; prefill < 32; ++prefill) CHECK(connected(prefill, 32, die, 320) == (die / 10 == prefill));
  // Fewer decode dies than prefill dies: each serves several.
  for (int prefill = 0; prefill < 8; ++prefill)
    for (int die = 0; die < 2; ++die) CHECK(connected(prefill, 8, die, 2) == (prefill / 4 == die));
  // Every decode die has exactly one partner, whatever the sizes.
  for (int die = 0; die < 7; ++die) {
    int partners = 0;
    for (int prefill = 0; prefill < 3; ++prefill) partners += connected(prefill, 3, die, 7);
    CHECK(partners == 1);
  }

  ServingConfig config = one_instance(0, 8192);
  config.prefill_dies = 2;
  config.decode_dies = 4;
  // The first one begins alone, the others together.
  FakeFleet fleet(config, some_requests(3, 10, 4));
  fleet.run();
  for (const auto& [request, die] : fleet.decode_die) CHECK(die.die / 2 == fleet.prefill_die.at(request).die);
}

TEST_CASE("a prompt of split_prompts tokens is computed by all dies of its instance, in pieces, and reported by one") {
  ServingConfig config = one_instance(60, 1000);
  config.prefill_dies = 3;
  config.split_prompts = 200;
  std::vector<Request> requests = some_requests(4, 400, 3);
  requests[1].prompt.resize(199);
  requests[3].prompt.resize(200);
  FakeFleet fleet(config, requests);
  for (const ServedRequest& served : fleet.run()) {
    CHECK(served.record.tokens.size() == 3);
    CHECK(served.record.hit_tokens + served.record.computed_tokens == served.request->prompt_tokens());
  }
  for (const StartStep& step : fleet.batches) {
    std::vector<std::vector<RequestId>> shared(3);
    for (std::size_t die = 0; die < 3; ++die)
      for (const Work& work : step.by_die[die]) {
        CHECK(work.home.has_value() == (work.request != requests[1].id));
        if (work.home) shared[die].push_back(work.request);
      }
    // All dies have them in the same order.
    CHECK(shared[1] == shared[0]);
    CHECK(shared[2] == shared[0]);
  }
  CHECK(fleet.pieces.at(requests[0].id).size() == 4);  // the fake pool has half of each prompt
  CHECK(fleet.largest_prefill_tokens <= 1000);
}

TEST_CASE("an instance of one die splits no prompt") {
  ServingConfig config = one_instance(0, 1000);
  config.split_prompts = 1;
  FakeFleet fleet(config, some_requests(2, 400, 3));
  fleet.run();
  for (const StartStep& step : fleet.batches)
    for (const Work& work : step.by_die.at(0)) CHECK_FALSE(work.home);
}
