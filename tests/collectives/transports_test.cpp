// How algorithms move bytes: messages, announcements, memory of a host, one-sided windows.
#include <cstring>
#include <string>
#include <vector>

#include "collectives/algorithms/announcements.hpp"
#include "collectives/algorithms/find_hosts.hpp"
#include "collectives/algorithms/host_memory.hpp"
#include "collectives/algorithms/messages.hpp"
#include "collectives/algorithms/remote_window.hpp"
#include "runtime/core/error.hpp"
#include "tests/support/mpi_fixture.hpp"

using namespace supernode;
using namespace supernode::collectives;
using namespace supernode::test;
using Catch::Matchers::Contains;

namespace {

/// This rank's setup; the ranks count as `hosts` hosts.
ExchangeSetup setup_on(int hosts) {
  return {{.max_tokens = 4, .hidden = 16, .topk = 2, .num_experts = 8, .deadline_s = 30},
          world().rank(),
          find_hosts(world(), hosts)};
}
/// All ranks on different hosts.
ExchangeSetup setup_apart() { return setup_on(world().size()); }

int next_rank() { return (world().rank() + 1) % world().size(); }
int rank_before() { return (world().rank() + world().size() - 1) % world().size(); }

Round round_of(const ExchangeSetup& setup, std::uint64_t number, int set) {
  Round round(setup, set);
  round.number = number;
  return round;
}

/// Bytes that differ by sender and message.
std::vector<std::byte> text_of(int sender, int message, std::size_t bytes) {
  std::vector<std::byte> text(bytes);
  for (std::size_t i = 0; i < bytes; ++i)
    text[i] = static_cast<std::byte>(13 * static_cast<std::size_t>(sender) + 5 * static_cast<std::size_t>(message) + i);
  return text;
}

/// The text of a TimeoutError that `step` throws.
template <class Step>
std::string timeout_of(Step&& step) {
  try {
    step();
  } catch (const TimeoutError& error) {
    return error.what();
  }
  return "no timeout";
}

std::string this_rank() { return "rank " + std::to_string(world().rank()) + ": "; }

}  // namespace

TEST_CASE("messages find their round and phase, in whatever order they are sent") {
  const ExchangeSetup setup = setup_on(1);
  const Messages messages(setup, world());
  constexpr std::size_t bytes = 3 * line_bytes, room = 5 * line_bytes;
  struct Message {
    int set;
    Phase phase;
    OwnedRequest send, receive;
    std::vector<std::byte> out, in;
  };
  std::vector<Message> all;
  for (int set = 0; set < n_round_sets; ++set)
    for (const Phase phase : {Phase::dispatch, Phase::combine}) all.push_back({set, phase, {}, {}, {}, {}});
  for (std::size_t i = 0; i < all.size(); ++i) {
    all[i].out = text_of(world().rank(), static_cast<int>(i), bytes);
    all[i].in.resize(room);
    messages.receive(all[i].in.data(), room, rank_before(), message_tag(all[i].set, all[i].phase), all[i].receive);
  }
  for (std::size_t i = all.size(); i-- > 0;)
    messages.send(all[i].out.data(), bytes, next_rank(), message_tag(all[i].set, all[i].phase), all[i].send);
  for (std::size_t i = 0; i < all.size(); ++i) {
    const Round round = round_of(setup, i + 1, all[i].set);
    messages.finish_receive(all[i].receive, round, "test", rank_before());
    messages.finish_send(all[i].send, round, "test", next_rank());
    CHECK(Messages::test(all[i].receive));  // what is done stays done
    all[i].in.resize(bytes);
    CHECK(all[i].in == text_of(rank_before(), static_cast<int>(i), bytes));
  }
}

TEST_CASE("a message that does not come, or is not taken, is named at the deadline") {
  ExchangeSetup setup = setup_on(1);
  const Messages messages(setup, world());
  const Round round = round_of(setup, 7, 0);
  constexpr std::size_t bytes = std::size_t{1} << 20;  // more than MPI takes in before the receiver asks for it
  const std::vector<std::byte> out = text_of(world().rank(), 0, bytes);
  std::vector<std::byte> in(bytes);
  OwnedRequest send, receive;
  setup.config.deadline_s = 0.05;

  messages.receive(in.data(), bytes, rank_before(), message_tag(0, 0), receive);
  CHECK_THAT(timeout_of([&] { messages.finish_receive(receive, round, "sums", rank_before()); }),
             Contains(this_rank() + "no sums message of round 7 from rank " + std::to_string(rank_before()) +
                      " within 0.05 s"));
  world().barrier();
  messages.send(out.data(), bytes, next_rank(), message_tag(0, 1), send);
  CHECK_THAT(timeout_of([&] { messages.finish_send(send, round, "rows", next_rank()); }),
             Contains(this_rank() + "the rows message of round 7 was not taken by rank " + std::to_string(next_rank()) +
                      " within 0.05 s"));
  world().barrier();

  // What was late may still come: the requests are as they were.
  setup.config.deadline_s = 30;
  OwnedRequest other_send, other_receive;
  std::vector<std::byte> other_in(bytes);
  messages.receive(other_in.data(), bytes, rank_before(), message_tag(0, 1), other_receive);
  messages.send(out.data(), bytes, next_rank(), message_tag(0, 0), other_send);
  messages.finish_receive(other_receive, round, "rows", rank_before());
  messages.finish_receive(receive, round, "sums", rank_before());
  messages.finish_send(send, round, "rows", next_rank());
  messages.finish_send(other_send, round, "sums", next_rank());
  CHECK(in == text_of(rank_before(), 0, bytes));
  CHECK(other_in == in);
}

TEST_CASE("announcements go to the ranks of other hosts, next ones first") {
  const ExchangeSetup setup = setup_on(2);
  const Announcements<int> announcements(setup, world());
  std::vector<int> visited;
  announcements.for_ranks([&](int rank) { visited.push_back(rank); });
  std::vector<int> others;
  for (int step = 1; step < world().size(); ++step) {
    const int rank = (world().rank() + step) % world().size();
    if (setup.hosts.host_of(rank) != setup.host()) others.push_back(rank);
  }
  CHECK(visited == others);
  CHECK(static_cast<int>(visited.size()) == setup.n_remote());
  CHECK(visited.empty() == (world().size() == 1));
}

TEST_CASE("announcements of two rounds in flight and of both phases do not mix, round after round") {
  struct Place {
    std::uint64_t round;
    int phase, from, to;
    bool operator==(const Place&) const = default;
  };
  const ExchangeSetup setup = setup_apart();
  Announcements<Place> announcements(setup, world());
  const auto text = [](Phase phase, const Round& round, int from, int to) {
    return Place{round.number, static_cast<int>(phase), from, to};
  };
  Round older(setup, 0), newer(setup, 1);
  for (std::uint64_t number = 1; number < 21; number += 2) {
    older.number = number;
    newer.number = number + 1;
    for (const Phase phase : {Phase::dispatch, Phase::combine}) {
      announcements.begin(phase, older);
      announcements.begin(phase, newer);
      for (const Round* round : {&newer, &older})
        announcements.for_ranks(
            [&](int rank) { announcements.send(phase, *round, rank, text(phase, *round, world().rank(), rank)); });
      for (const Round* round : {&older, &newer})
        announcements.for_ranks([&](int rank) {
          CHECK(announcements.await(phase, *round, rank) == text(phase, *round, rank, world().rank()));
        });
    }
  }
}

TEST_CASE("an announcement that does not come is named at the deadline") {
  ExchangeSetup setup = setup_apart();
  Announcements<int> announcements(setup, world());
  const Round round = round_of(setup, 3, 1);
  announcements.begin(Phase::combine, round);
  setup.config.deadline_s = 0.05;
  announcements.for_ranks([&](int rank) {
    CHECK_THAT(timeout_of([&] { announcements.await(Phase::combine, round, rank); }),
               Contains(this_rank() + "no combine message of round 3 from rank " + std::to_string(rank) + " within"));
  });
  world().barrier();
  setup.config.deadline_s = 30;
  announcements.for_ranks([&](int rank) { announcements.send(Phase::combine, round, rank, world().rank()); });
  announcements.for_ranks([&](int rank) { CHECK(announcements.await(Phase::combine, round, rank) == rank); });
}

TEST_CASE("what a rank writes before it raises a flag, the ranks of its host read after they saw it") {
  for (const int hosts : {1, 2}) {
    if (hosts > world().size()) continue;
    const ExchangeSetup setup = setup_on(hosts);
    constexpr std::size_t flags = 2, bytes = 10 * line_bytes, begin = flags * sizeof(Flag);
    const HostMemory memory(setup, world(), bytes, flags);
    CHECK(memory.allocated_bytes() == bytes + segment_overhead_bytes);
    CHECK(memory.own() == memory.of(world().rank()));
    for (int rank = 0; rank < world().size(); ++rank) {
      CHECK((memory.of(rank) != nullptr) == setup.is_local(rank));
      if (!setup.is_local(rank)) continue;
      CHECK(reinterpret_cast<std::uintptr_t>(memory.of(rank)) % line_bytes == 0);
      CHECK(memory.flag(rank, 1).rows_of(1) == -1);
    }
    world().barrier();  // until here all flags are down

    const std::vector<std::byte> mine = text_of(world().rank(), hosts, bytes - begin);
    std::memcpy(memory.own() + begin, mine.data(), mine.size());
    memory.flag(world().rank(), 1).raise(1, world().rank());
    for (const int rank : setup.hosts.members(setup.host())) {
      wait_for_peer(
          setup, rank, [&] { return memory.flag(rank, 1).rows_of(1) >= 0; },
          [] { return std::string("no flag was raised"); });
      CHECK(memory.flag(rank, 1).rows_of(1) == rank);
      CHECK(memory.flag(rank, 0).rows_of(1) == -1);
      const std::vector<std::byte> theirs = text_of(rank, hosts, bytes - begin);
      CHECK(std::memcmp(memory.of(rank) + begin, theirs.data(), theirs.size()) == 0);
    }
    world().barrier();
  }
}

TEST_CASE("memory that a host does not have is refused on every rank, for the algorithm that wants it") {
  if (world().size() == 1) return;  // a rank alone has no memory to share, and asks for none
  ExchangeSetup setup = setup_on(1);
  setup.algorithm = "pull";
  CHECK_THROWS_WITH(HostMemory(setup, world(), std::size_t{1} << 50, 0),
                    Contains("exchange algorithm 'pull' needs") && Contains("choose another algorithm"));
}

TEST_CASE("one-sided transfers write into and read from the ranks of other hosts") {
  const ExchangeSetup setup = setup_apart();
  const auto self = static_cast<std::size_t>(world().rank()), ranks = static_cast<std::size_t>(world().size());
  constexpr std::size_t bytes = 2 * line_bytes;
  const auto place_of = [](std::size_t rank) { return bytes * rank; };
  const auto place_for = [&](int rank) { return place_of(static_cast<std::size_t>(rank)); };
  // A rank's memory: a place for what each rank puts there, and behind them what others get.
  std::vector<std::byte> memory(bytes * (ranks + 1)), got(bytes * ranks);
  const std::vector<std::byte> offered = text_of(world().rank(), 1, bytes);
  std::copy(offered.begin(), offered.end(), memory.begin() + static_cast<std::ptrdiff_t>(place_of(ranks)));
  const RemoteWindow window(setup, world(), memory.data(), memory.size());
  const Messages messages(setup, world());
  const Round round = round_of(setup, 1, 0);
  Watchdog watchdog;

  const std::vector<std::byte> out = text_of(world().rank(), 0, bytes);
  for_others(world().rank(), world().size(), [&](int rank) { window.put(rank, place_of(self), out.data(), bytes); });
  for_others(world().rank(), world().size(), [&](int rank) { window.flush(rank, round, "test", watchdog); });
  world().barrier();
  window.sync();
  for_others(world().rank(), world().size(), [&](int rank) {
    CHECK(std::memcmp(memory.data() + place_for(rank), text_of(rank, 0, bytes).data(), bytes) == 0);
  });

  std::vector<OwnedRequest> gets(ranks);
  for_others(world().rank(), world().size(), [&](int rank) {
    window.get(rank, place_of(ranks), got.data() + place_for(rank), bytes, gets[static_cast<std::size_t>(rank)]);
  });
  for_others(world().rank(), world().size(), [&](int rank) {
    messages.finish_receive(gets[static_cast<std::size_t>(rank)], round, "test", rank);
    CHECK(std::memcmp(got.data() + place_for(rank), text_of(rank, 1, bytes).data(), bytes) == 0);
  });
  world().barrier();
}
