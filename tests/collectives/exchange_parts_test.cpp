// The parts that algorithms are made of, as far as they need no other rank.
#include <cstdint>
#include <string>
#include <vector>

#include "collectives/algorithms/buffer_plan.hpp"
#include "collectives/algorithms/messages.hpp"
#include "collectives/algorithms/segment.hpp"
#include "collectives/algorithms/wait_for_peer.hpp"
#include "collectives/algorithms/window_support.hpp"
#include "runtime/core/error.hpp"
#include "tests/support/catch.hpp"

using namespace supernode;
using namespace supernode::collectives;
using Catch::Matchers::Contains;

namespace {

/// Rank 1 of three ranks on one host.
ExchangeSetup small_setup() {
  return {{.max_tokens = 4, .hidden = 16, .topk = 2, .num_experts = 6}, 1, HostMap::blocks(3, 1)};
}

}  // namespace

TEST_CASE("regions of a segment are whole lines behind the flags, and do not overlap") {
  Segment segment(5);
  const std::size_t sizes[] = {1, 64, 0, 100};
  std::vector<std::size_t> regions;
  for (const std::size_t bytes : sizes) regions.push_back(segment.add_region(bytes));
  CHECK(regions == std::vector<std::size_t>{0, 1, 2, 3});
  CHECK(segment.flags() == 5);
  std::size_t end = 5 * sizeof(Flag);
  for (int set = 0; set < n_round_sets; ++set)
    for (const std::size_t region : regions) {
      CHECK(segment.offset(set, region) == end);
      CHECK(end % line_bytes == 0);
      end += whole_lines(sizes[region]);
    }
  CHECK(segment.bytes() == end);
  CHECK(Segment(2).bytes() == 2 * sizeof(Flag));
}

TEST_CASE("a flag tells the round that raised it, and its rows") {
  CHECK(sizeof(Flag) == line_bytes);
  Flag flag;
  CHECK(flag.rows_of(1) == -1);
  flag.raise(1, 7);
  CHECK(flag.rows_of(1) == 7);
  CHECK(flag.rows_of(2) == -1);
  flag.raise(3);
  CHECK(flag.rows_of(1) == -1);
  CHECK(flag.rows_of(3) == 0);
  // Round numbers are compared in 32 bits, so a run may have more rounds than that.
  const std::uint64_t late = (std::uint64_t{1} << 32) + 5;
  flag.raise(late, 2);
  CHECK(flag.rows_of(late) == 2);
  CHECK(flag.rows_of(late - 2) == -1);
}

TEST_CASE("a plan's bytes are those of its buffers, which are apart for each round in flight") {
  const BufferPlan plan{.segment = 1000, .of_round = {64, 0, 200}, .scratch = 10};
  CHECK(plan.bytes() == 1000 + n_round_sets * (64 + 0 + 200) + 10);
  PlannedBuffers buffers(plan);
  CHECK(buffers.allocated_bytes() == plan.bytes() - plan.segment);
  std::vector<std::pair<std::byte*, std::size_t>> all{{buffers.scratch(), plan.scratch}};
  for (int set = 0; set < n_round_sets; ++set)
    for (std::size_t which = 0; which < plan.of_round.size(); ++which)
      all.emplace_back(buffers.of_round(set, which), plan.of_round[which]);
  for (std::size_t i = 0; i < all.size(); ++i) std::fill_n(all[i].first, all[i].second, static_cast<std::byte>(i));
  for (std::size_t i = 0; i < all.size(); ++i)
    CHECK(std::all_of(all[i].first, all[i].first + all[i].second,
                      [&](std::byte b) { return b == static_cast<std::byte>(i); }));
}

TEST_CASE("tags tell rounds in flight, phases and steps from each other") {
  CHECK(message_tag(0, Phase::dispatch) != message_tag(0, Phase::combine));
  CHECK(message_tag(0, Phase::dispatch) != message_tag(1, Phase::dispatch));
  std::vector<int> tags;
  for (int set = 0; set < n_round_sets; ++set)
    for (int step = 0; step < 62; ++step) tags.push_back(message_tag(set, step));
  std::sort(tags.begin(), tags.end());
  CHECK(std::adjacent_find(tags.begin(), tags.end()) == tags.end());
}

TEST_CASE("a wait is booked on the peer that it was for, and one that needs no waiting on nobody") {
  ExchangeSetup setup = small_setup();
  WaitTimes waits;
  waits.for_peer_s.resize(3);
  setup.waits = &waits;
  const auto nothing = [] { return std::string("unused"); };
  wait_for_peer(
      setup, 2, [] { return true; }, nothing);
  CHECK(waits.for_peer_s[2] == 0);
  const auto at_turn = [](int turn) { return [=, n = 0]() mutable { return ++n >= turn; }; };
  wait_for_peer(setup, 2, at_turn(100), nothing);
  CHECK(waits.for_peer_s[2] > 0);
  CHECK(waits.for_peer_s[0] + waits.for_peer_s[1] + waits.for_group_s == 0);
  wait_for_peer(setup, whole_group, at_turn(100), nothing);
  CHECK(waits.for_group_s > 0);
  CHECK(waits.for_peer_s[0] + waits.for_peer_s[1] == 0);
}

TEST_CASE("a wait that ends at the deadline says who waited, and for what") {
  ExchangeSetup setup = small_setup();
  setup.config.deadline_s = 0.01;
  Round round(setup, 0);
  round.number = 3;
  const auto wait = [&] {
    wait_for_peer(
        setup, 2, [] { return false; }, [&] { return missing_message(round, "dispatch", 2); });
  };
  CHECK_THROWS_AS(wait(), TimeoutError);
  CHECK_THROWS_WITH(wait(), Contains("rank 1: no dispatch message of round 3 from rank 2 within 0.01 s"));
}

TEST_CASE("windows are sufficient for what needs no others") {
  const WindowSupport all, none{.shared = false, .remote = false}, shared{.shared = true, .remote = false},
      remote{.shared = false, .remote = true};
  for (const int hosts : {1, 2}) {
    for (const WindowSupport& support : {all, none, shared, remote}) {
      CHECK(sufficient(Windows::none, hosts, support));
      CHECK(sufficient(Windows::shared, hosts, support) == support.shared);
      CHECK(sufficient(Windows::shared_and_remote, hosts, support) ==
            (support.shared && (support.remote || hosts == 1)));
    }
  }
}
