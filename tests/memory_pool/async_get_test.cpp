// Gets that are begun, and looked after later.
#include "memory_pool/context_cache.hpp"
#include "tests/memory_pool/pool_fixture.hpp"

using namespace supernode;
using namespace supernode::test;
using namespace supernode::pool;

namespace {

constexpr std::size_t block_bytes = 3000;

void check_counters(const Client& client) {
  CHECK(client.stats().gets.hits + client.stats().gets.misses() == client.stats().gets.asked);
}

/// Stores blocks [0, count) and gives the client's own buffers for them.
std::vector<std::vector<std::byte>> stored_blocks(Client& client, std::uint64_t count) {
  for (std::uint64_t i = 0; i < count; ++i)
    CHECK(client.put(key_number(i), make_payload(key_number(i), i, block_bytes)) == Status::stored);
  return std::vector<std::vector<std::byte>>(count, std::vector<std::byte>(block_bytes));
}

}  // namespace

TEST_CASE("several gets are under way at once; each item ends with a status of its own") {
  for (const std::string transport : {"auto", "rma"})
    for (const Roles& roles : all_roles())
      with_pool(small_pool(transport), roles, [&](Pool& pool) {
        Client client(pool, "tenant " + std::to_string(world().rank()));
        constexpr std::uint64_t count = 12;
        std::vector<std::vector<std::byte>> buffers = stored_blocks(client, count);
        std::vector<PendingGet> pending;
        for (std::uint64_t i = 0; i < count; i += 4) {
          std::vector<GetItem> items;
          for (std::uint64_t k = i; k < i + 4; ++k) items.push_back({key_number(k), buffers[k]});
          items[1].key = key_number(1000 + i);
          items[2].destination = items[2].destination.first(10);
          pending.push_back(client.start_get(items));
        }
        const std::uint64_t asked = client.stats().gets.asked;
        CHECK(asked <= count);
        // A waiting call in between does not disturb them.
        CHECK(client.put(key_number(500), make_payload(key_number(500), 1, 100)) == Status::stored);
        wait_until(
            [&] {
              bool all = true;
              for (PendingGet& get : pending) all &= get.test();
              return all;
            },
            60, [] { return std::string("gets do not end"); });
        for (std::uint64_t i = 0; i < count; ++i) {
          const std::optional<Found> found = pending[i / 4].found(i % 4);
          CHECK(found.has_value());
          if (!found) continue;
          if (i % 4 == 1) {
            CHECK(found->reason == MissReason::never_stored);
          } else if (i % 4 == 2) {
            CHECK(found->reason == MissReason::wrong_size);
          } else {
            CHECK(found->hit());
            CHECK(check_payload(key_number(i), buffers[i]) == static_cast<long long>(i));
          }
        }
        CHECK(client.stats().gets.asked == count);
        CHECK(client.stats().gets.hits == count / 2);
        check_counters(client);
        CHECK(client.start_get({}).test());
      });
}

TEST_CASE("the client's progress moves gets on, and wait() gives the time that it was given") {
  for (const std::string transport : {"auto", "rma"})
    for (const Roles& roles : all_roles())
      with_pool(small_pool(transport), roles, [&](Pool& pool) {
        Client client(pool, "tenant " + std::to_string(world().rank()));
        std::vector<std::vector<std::byte>> buffers = stored_blocks(client, 2);
        const GetItem items[] = {{key_number(0), buffers[0]}, {key_number(1), buffers[1]}};
        PendingGet get = client.start_get(items);
        wait_until([&] { return client.progress(), get.found(0) && get.found(1); }, 60,
                   [] { return std::string("progress() does not move gets"); });
        CHECK(get.test());
        CHECK(check_payload(key_number(1), buffers[1]) == 1);
        PendingGet again = client.start_get(items);
        CHECK(again.wait(60));
        CHECK(again.found(0)->hit());
        check_counters(client);
      });
}

TEST_CASE("a get that is given up writes nowhere any more, and is not counted") {
  for (const std::string transport : {"auto", "rma"})
    for (const Roles& roles : all_roles())
      with_pool(small_pool(transport), roles, [&](Pool& pool) {
        Client client(pool, "tenant " + std::to_string(world().rank()));
        std::vector<std::vector<std::byte>> buffers = stored_blocks(client, 1);
        std::uint64_t ended = 0;  // with some transports at once
        {
          const PendingGet get = client.start_get(std::vector<GetItem>{{key_number(0), buffers[0]}});
          ended = get.found(0).has_value();
        }
        const std::vector<std::byte> mark(block_bytes, std::byte{77});
        buffers[0] = mark;
        for (int turn = 0; turn < 200; ++turn) client.progress();
        CHECK(buffers[0] == mark);
        CHECK(client.stats().gets.asked == ended);
        CHECK(client.get(key_number(0), buffers[0]).hit());
        CHECK(client.stats().gets.asked == ended + 1);
      });
}

TEST_CASE("a torn get is made again until the block is whole, or the attempts are used up") {
  for (const int retries : {2, 1 << 30}) {
    PoolConfig config = small_pool("auto");
    config.retries = retries;
    with_pool(config, {world().size(), true}, [&](Pool& pool) {
      Client client(pool, "tenant " + std::to_string(world().rank()));
      const Key key = key_at(pool, world().rank());  // in memory that this test can reach
      CHECK(client.put(key, make_payload(key, 1, block_bytes)) == Status::stored);
      const internal::Entry* entry = entry_of(pool, key, client.name_space());
      CHECK(entry != nullptr);
      if (!entry) return;
      std::byte& victim = core_of(pool).segment.local()[core_of(pool).layout.payload_offset + entry->offset + 1234];
      victim ^= std::byte{8};
      std::vector<std::byte> buffer(block_bytes);
      PendingGet get = client.start_get(std::vector<GetItem>{{key, buffer}});
      if (retries == 2) {
        get.wait();
        CHECK(get.found(0)->reason == MissReason::torn);
        CHECK(client.stats().retries == 2);
      } else {
        CHECK_FALSE(get.wait(0.02));
        CHECK_FALSE(get.found(0).has_value());
        victim ^= std::byte{8};
        CHECK(get.wait(60));
        CHECK(get.found(0)->hit());
        CHECK(check_payload(key, buffer) == 1);
        CHECK(client.stats().retries > 0);
      }
      check_counters(client);
    });
  }
}

TEST_CASE("gets under way end as misses when their owner goes, and the others' do not") {
  if (world().size() < 2) return;
  for (const std::string transport : {"auto", "rma"}) {
    const int owners = world().size() - 1;  // the last rank is the client
    const PoolConfig config = small_pool(transport);
    const Flag flag;
    Pool pool(world(), first_ranks(owners), config);
    TestClock clock(pool);
    const bool is_client = world().rank() == owners;
    const Key lost = key_at(pool, 0), kept = key_at(pool, owners - 1, 1);
    std::optional<Client> client;
    if (is_client) {
      client.emplace(pool);
      for (const Key& key : {lost, kept}) CHECK(client->put(key, make_payload(key, 1, block_bytes)) == Status::stored);
    }
    meet(pool);
    if (world().rank() == 0) core_of(pool).shard->lose_memory();
    meet(pool);
    if (world().rank() == 0) {
      flag.wait();
      core_of(pool).start_shard();
    } else if (is_client) {
      // In shared memory a lost memory is seen as such. Else it is read as an empty one, or, where that needs the owner,
      // the reads end at the deadline.
      const bool readable = reads_need_no_owner(pool, 0);
      const MissReason expected =
          readable && !core_of(pool).segment.shared() ? MissReason::never_stored : MissReason::owner_down;
      {
        if (!readable) clock.run();
        std::vector<std::byte> one(block_bytes), two(block_bytes);
        PendingGet first = client->start_get(std::vector<GetItem>{{lost, one}});
        PendingGet second = client->start_get(std::vector<GetItem>{{kept, two}, {lost, one}});
        first.wait();
        second.wait();
        CHECK(first.found(0)->reason == expected);
        CHECK(second.found(1)->reason == expected);
        if (owners > 1 && readable) CHECK(second.found(0)->hit());
        check_counters(*client);
      }
      clock.stand();
      flag.raise();
      client.reset();
    }
    meet(pool);
  }
}

TEST_CASE("what is only in files comes back to gets under way, too") {
  const Folder folder;
  PoolConfig config = small_pool("auto");
  config.directory = folder.text();
  with_pool(config, {1, world().size() == 1}, [&](Pool& pool) {
    Client client(pool, "tenant " + std::to_string(world().rank()));
    constexpr std::uint64_t count = 130;  // more than the owner's DRAM holds
    std::vector<std::vector<std::byte>> buffers = stored_blocks(client, count);
    std::vector<PendingGet> pending;
    for (std::uint64_t i = 0; i < count; i += 10) {
      std::vector<GetItem> items;
      for (std::uint64_t k = i; k < i + 10; ++k) items.push_back({key_number(k), buffers[k]});
      items.push_back({key_number(1000 + i), buffers[i]});
      pending.push_back(client.start_get(items));
    }
    std::size_t hits = 0;
    for (std::size_t p = 0; p < pending.size(); ++p) {
      pending[p].wait();
      for (std::size_t k = 0; k < 10; ++k) {
        const bool hit = pending[p].found(k)->hit();
        hits += hit;
        if (hit)
          CHECK(check_payload(key_number(p * 10 + k), buffers[p * 10 + k]) == static_cast<long long>(p * 10 + k));
      }
      CHECK(pending[p].found(10)->reason == MissReason::never_stored);
    }
    // Several clients may crowd each other's blocks out between promotion and read, which costs attempts.
    CHECK(hits >= (world().size() <= 2 ? count : 1));
    check_counters(client);
  });
}

TEST_CASE("blocks of a prefix arrive while others are looked up") {
  for (const std::string transport : {"auto", "rma"})
    for (const Roles& roles : all_roles())
      with_pool(small_pool(transport), roles, [&](Pool& pool) {
        Client client(pool, "tenant " + std::to_string(world().rank()));
        ContextCache cache(client, {"model", 4, block_bytes});
        std::vector<std::int32_t> prompt(40);
        for (std::size_t i = 0; i < prompt.size(); ++i) prompt[i] = static_cast<std::int32_t>(i);
        const std::vector<Key> keys = cache.keys(prompt);
        for (std::size_t i = 0; i < 6; ++i) CHECK(cache.store(keys[i], make_payload(keys[i], i, block_bytes)));
        CHECK(client.drain(60) == 0);
        std::vector<std::vector<std::byte>> buffers(8, std::vector<std::byte>(block_bytes));
        const std::vector<std::span<std::byte>> destinations(buffers.begin(), buffers.end());
        PendingLoad load = cache.start_load(keys, 0, destinations);
        const LoadResult early = load.result();
        CHECK(early.blocks <= 6);
        CHECK(cache.longest_prefix(keys).blocks == 6);
        load.wait();
        CHECK(load.result().blocks == 6);
        CHECK(load.result().reason == MissReason::never_stored);
        for (std::size_t i = 0; i < 6; ++i) CHECK(check_payload(keys[i], buffers[i]) == static_cast<long long>(i));
      });
}
