// Owners and clients over MPI, through both transports.
#include <map>

#include "memory_pool/ring.hpp"
#include "tests/memory_pool/pool_fixture.hpp"

using namespace supernode;
using namespace supernode::test;
using namespace supernode::pool;

namespace {

void check_owner(const OwnerStats& stats) {
  CHECK(stats.live <= stats.reserved);
  CHECK(stats.reserved <= stats.high_watermark);
  CHECK(stats.high_watermark <= stats.capacity);
}

void check_client(const ClientStats& stats) {
  CHECK(stats.lookups.hits + stats.lookups.misses() == stats.lookups.asked);
  CHECK(stats.gets.hits + stats.gets.misses() == stats.gets.asked);
}

Status put_version(Client& client, const Key& key, std::uint64_t version, std::size_t bytes,
                   PutMode mode = PutMode::keep) {
  return client.put(key, make_payload(key, version, bytes), mode);
}

}  // namespace

TEST_CASE("what one rank stores, every rank reads") {
  for (const std::string transport : {"auto", "rma"})
    for (const Roles& roles : all_roles())
      with_pool(small_pool(transport), roles, [&](Pool& pool) {
        Client client(pool);
        const auto rank = static_cast<std::uint64_t>(world().rank());
        constexpr std::uint64_t each = 20;
        for (std::uint64_t i = 0; i < each; ++i)
          CHECK(put_version(client, key_number(rank * each + i), i, 24 + 100 * i) == Status::stored);
        CHECK(client.put(key_number(7000 + rank), {}) == Status::stored);
        if (roles.owners_use) meet(pool);
        const std::uint64_t first = roles.owners_use ? 0 : rank;
        const std::uint64_t last = roles.owners_use ? static_cast<std::uint64_t>(world().size()) : rank + 1;
        std::vector<std::byte> buffer(4096);
        for (std::uint64_t i = first * each; i < last * each; ++i) {
          const Found found = client.get(key_number(i), buffer);
          CHECK(found.hit());
          CHECK(found.length == 24 + 100 * (i % each));
          CHECK(check_payload(key_number(i), std::span(buffer).first(found.length)) ==
                static_cast<long long>(i % each));
        }
        const Found nothing = client.get(key_number(7000 + rank), {});
        CHECK(nothing.hit());
        CHECK(nothing.length == 0);
        CHECK(client.get(key_number(1000000), buffer).reason == MissReason::never_stored);
        CHECK(client.get(key_number(rank * each + 5), std::span(buffer).first(100)).reason == MissReason::wrong_size);
        CHECK(client.stats().bytes_read > 0);
        CHECK(client.stats().stores[static_cast<std::size_t>(Status::stored)] == each + 1);
        check_client(client.stats());
        for (const int owner : pool.owners()) {
          const auto stats = pool.fetch_stats(owner);
          CHECK(stats.has_value());
          if (stats) check_owner(*stats);
        }
      });
}

TEST_CASE("equal keys are stored once; namespaces do not see each other") {
  for (const std::string transport : {"auto", "rma"})
    for (const Roles& roles : all_roles())
      with_pool(small_pool(transport), roles, [&](Pool& pool) {
        const std::string tenant = "tenant " + std::to_string(world().rank());
        Client mine(pool, tenant), other(pool, tenant + " b");
        const Key key = key_number(static_cast<std::uint64_t>(5 + world().rank()));
        CHECK(put_version(mine, key, 1, 500) == Status::stored);
        CHECK(put_version(mine, key, 2, 500) == Status::already_there);
        std::vector<std::byte> buffer(600);
        CHECK(mine.get(key, buffer).hit());
        CHECK(check_payload(key, std::span(buffer).first(500)) == 1);
        CHECK(other.get(key, buffer).reason == MissReason::other_namespace);
        CHECK(other.remove(key) == Status::not_there);
        CHECK(put_version(other, key, 3, 400) == Status::stored);
        CHECK(other.get(key, buffer).length == 400);
        CHECK(mine.get(key, buffer).length == 500);
        CHECK(put_version(mine, key, 4, 300, PutMode::replace) == Status::stored);
        CHECK(mine.get(key, buffer).length == 300);
        CHECK(check_payload(key, std::span(buffer).first(300)) == 4);
        CHECK(mine.remove(key) == Status::removed);
        CHECK(mine.get(key, buffer).reason == MissReason::other_namespace);
        CHECK(other.get(key, buffer).hit());
        check_client(mine.stats());
      });
}

TEST_CASE("batched reads answer in order, hits and misses mixed") {
  for (const std::string transport : {"auto", "rma"})
    for (const Roles& roles : all_roles())
      with_pool(small_pool(transport), roles, [&](Pool& pool) {
        Client client(pool, "tenant " + std::to_string(world().rank()));
        constexpr std::size_t count = 600;  // more than one slice
        std::vector<Key> keys(count);
        std::vector<GetItem> items(count);
        std::vector<std::vector<std::byte>> buffers(count, std::vector<std::byte>(64));
        for (std::size_t i = 0; i < count; ++i) {
          keys[i] = key_number(i);
          items[i] = {keys[i], buffers[i]};
          if (i % 30 == 0) CHECK(put_version(client, keys[i], i, 40) == Status::stored);
        }
        const std::vector<Found> there = client.lookup(keys);
        const std::vector<Found> got = client.get_batch(items);
        for (std::size_t i = 0; i < count; ++i) {
          CHECK(there[i].hit() == (i % 30 == 0));
          CHECK(got[i].hit() == there[i].hit());
          if (got[i].hit()) CHECK(check_payload(keys[i], std::span(buffers[i]).first(40)) == static_cast<long long>(i));
        }
        CHECK(client.lookup({}).empty());
        CHECK(client.stats().lookups.hits == count / 30);
        check_client(client.stats());
      });
}

TEST_CASE("under pressure the oldest are evicted and say so, touched ones stay") {
  for (const std::string transport : {"auto", "rma"}) {
    with_pool(small_pool(transport), {world().size(), true}, [&](Pool& pool) {
      // Each rank fills the pool with its own tenant's blocks; 4 x the capacity in all.
      Client client(pool, "tenant " + std::to_string(world().rank()));
      const std::uint64_t blocks = 4 * (256 << 10) / 1024;
      const Key precious = key_number(1u << 30);
      CHECK(put_version(client, precious, 1, 1000) == Status::stored);
      for (std::uint64_t i = 0; i < blocks; ++i) {
        CHECK(put_version(client, key_number(i), i, 1000) == Status::stored);
        CHECK(client.lookup({&precious, 1}).front().hit());
        client.flush_touches();
      }
      std::vector<std::byte> buffer(1000);
      std::uint64_t hits = 0, evicted = 0;
      for (std::uint64_t i = 0; i < blocks; ++i) {
        const Found found = client.get(key_number(i), buffer);
        hits += found.hit();
        evicted += found.reason == MissReason::evicted;
        if (found.hit()) CHECK(check_payload(key_number(i), buffer) == static_cast<long long>(i));
      }
      CHECK(evicted > 0);
      CHECK(hits > 0);
      meet(pool);
      const OwnerStats stats = pool.owner_stats();
      check_owner(stats);
      CHECK(stats.evictions > 0);
      CHECK(stats.high_watermark <= static_cast<std::uint64_t>(0.9 * static_cast<double>(stats.capacity)));
      CHECK(core_of(pool).shard->consistent());
    });
  }
}

TEST_CASE("queued stores finish off the caller's path") {
  for (const std::string transport : {"auto", "rma"})
    for (const Roles& roles : all_roles()) {
      PoolConfig config = small_pool(transport);
      config.store_buffer = {40 * 1000};
      with_pool(config, roles, [&](Pool& pool) {
        Client client(pool, "tenant " + std::to_string(world().rank()));
        std::vector<bool> accepted;
        for (std::uint64_t i = 0; i < 60; ++i)
          accepted.push_back(client.store_async(key_number(i), make_payload(key_number(i), i, 1000)));
        CHECK(client.drain(30) == 0);
        CHECK(client.queued() == 0);
        std::vector<std::byte> buffer(1000);
        for (std::uint64_t i = 0; i < 60; ++i) {
          CHECK(client.get(key_number(i), buffer).hit() == accepted[i]);
          if (accepted[i]) CHECK(check_payload(key_number(i), buffer) == static_cast<long long>(i));
        }
        CHECK_FALSE(client.store_async(key_number(100), std::vector<std::byte>(41 * 1000)));
        const auto& stores = client.stats().stores;
        CHECK(stores[static_cast<std::size_t>(Status::stored)] + stores[static_cast<std::size_t>(Status::full)] == 61);
        CHECK(client.store_async(key_number(0), make_payload(key_number(0), 9, 1000)));
        CHECK(client.drain(30) == 0);
        CHECK(stores[static_cast<std::size_t>(Status::already_there)] == 1);
      });
    }
}

TEST_CASE("a storer that waits for room in its queue loses no block") {
  for (const std::string transport : {"auto", "rma"})
    for (const Roles& roles : all_roles()) {
      PoolConfig config = small_pool(transport);
      config.store_buffer = {4 * 1000};
      with_pool(config, roles, [&](Pool& pool) {
        Client client(pool, "tenant " + std::to_string(world().rank()));
        constexpr std::uint64_t count = 30;
        for (std::uint64_t i = 0; i < count; ++i) {
          CHECK(client.wait_for_room(1000, 30));
          CHECK(client.store_async(key_number(i), make_payload(key_number(i), i, 1000)));
        }
        CHECK_FALSE(client.wait_for_room(4 * 1000 + 1, 30));  // never: it does not wait longer than for the queue
        CHECK(client.queued() == 0);
        CHECK(client.stats().stores[static_cast<std::size_t>(Status::stored)] == count);
        std::vector<std::byte> buffer(1000);
        for (std::uint64_t i = 0; i < count; ++i) CHECK(client.get(key_number(i), buffer).hit());
      });
    }
}

TEST_CASE("batched stores answer in order") {
  for (const std::string transport : {"auto", "rma"})
    for (const Roles& roles : all_roles())
      with_pool(small_pool(transport), roles, [&](Pool& pool) {
        Client client(pool, "tenant " + std::to_string(world().rank()));
        std::vector<std::vector<std::byte>> data;
        std::vector<PutItem> items;
        for (std::uint64_t i = 0; i < 50; ++i) data.push_back(make_payload(key_number(i), i, 100 + i));
        for (std::uint64_t i = 0; i < 50; ++i) items.push_back({key_number(i), data[i]});
        const std::vector<std::byte> large(300 << 10);
        items.push_back({key_number(50), large});
        items.push_back({key_number(51), {}});
        client.store_async(key_number(52), make_payload(key_number(52), 1, 100));
        const std::vector<Status> statuses = client.put_batch(items);
        for (std::size_t i = 0; i < items.size(); ++i)
          CHECK(statuses[i] == (i == 50 ? Status::too_large : Status::stored));
        CHECK(client.put_batch({}).empty());
        CHECK(client.put_batch(items).front() == Status::already_there);
        std::vector<std::byte> buffer(200);
        for (std::uint64_t i = 0; i < 50; ++i) {
          CHECK(client.get(key_number(i), buffer).hit());
          CHECK(check_payload(key_number(i), std::span(buffer).first(100 + i)) == static_cast<long long>(i));
        }
        CHECK(client.drain(30) == 0);
        CHECK(client.get(key_number(52), buffer).hit());
      });
}

TEST_CASE("a client that goes away in the middle of its stores leaves no block behind") {
  for (const std::string transport : {"auto", "rma"}) {
    with_pool(
        small_pool(transport), {world().size(), true},
        [&](Pool& pool) {
          {
            Client client(pool, "tenant " + std::to_string(world().rank()));
            for (std::uint64_t i = 0; i < 40; ++i)
              client.store_async(key_number(i), make_payload(key_number(i), i, 500));
          }
          meet(pool);
          meet(pool);
        },
        [](Pool& pool) {
          CHECK(core_of(pool).shard->consistent());
          check_owner(pool.owner_stats());
        });
  }
}

TEST_CASE("readers of blocks that are rewritten all the time never see a wrong byte") {
  for (const std::string transport : {"auto", "rma"}) {
    PoolConfig config = small_pool(transport);
    config.retries = 50;
    with_pool(config, {1, true}, [&](Pool& pool) {
      constexpr std::uint64_t keys = 3;
      constexpr std::size_t bytes = 60000;  // two versions of three keys do not fit beside each other: memory is reused
      Client client(pool);
      if (world().rank() == 0)
        for (std::uint64_t k = 0; k < keys; ++k) put_version(client, key_number(k), 0, bytes);
      meet(pool);
      std::vector<std::byte> buffer(bytes);
      std::map<std::uint64_t, long long> newest;
      for (std::uint64_t turn = 1; turn <= 300; ++turn) {
        const Key key = key_number(turn % keys);
        if (world().rank() == 0) {
          CHECK(put_version(client, key, turn, bytes, PutMode::replace) == Status::stored);
          continue;
        }
        const Found found = client.get(key, buffer);
        CHECK((found.hit() || found.reason == MissReason::torn || found.reason == MissReason::evicted));
        if (!found.hit()) continue;
        const long long version = check_payload(key, std::span(buffer).first(found.length));
        CHECK(version >= newest[turn % keys]);  // never older than what this rank has seen
        newest[turn % keys] = version;
      }
      check_client(client.stats());
    });
  }
}

TEST_CASE("a flipped bit in payload or index is a torn read, never data") {
  with_pool(small_pool("auto"), {world().size(), true}, [&](Pool& pool) {
    Client client(pool, "tenant " + std::to_string(world().rank()));
    // A key whose owner is this rank, so that the test can reach the memory.
    std::uint64_t number = 0;
    while (pool.view().owner_of(key_number(number)) != world().rank()) ++number;
    const Key key = key_number(number);
    CHECK(put_version(client, key, 1, 5000) == Status::stored);
    std::vector<std::byte> buffer(5000);
    CHECK(client.get(key, buffer).hit());

    const internal::Layout& layout = core_of(pool).layout;
    const std::span<std::byte> memory = core_of(pool).segment.local();
    internal::Entry* entry = entry_of(pool, key, client.name_space());
    CHECK(entry != nullptr);
    if (entry == nullptr) return;
    std::byte& victim = memory[layout.payload_offset + entry->offset + 4321];
    victim ^= std::byte{4};
    CHECK(client.get(key, buffer).reason == MissReason::torn);
    victim ^= std::byte{4};
    CHECK(client.get(key, buffer).hit());
    entry->length ^= 8;
    CHECK(client.get(key, buffer).reason == MissReason::torn);
    CHECK(client.lookup({&key, 1}).front().reason == MissReason::torn);
    entry->length ^= 8;
    CHECK(client.get(key, buffer).hit());
    CHECK(client.stats().retries > 0);
    check_client(client.stats());
  });
}

TEST_CASE("random work of all ranks returns no wrong byte and leaves consistent owners") {
  for (const std::string transport : {"auto", "rma"})
    for (const Roles& roles : all_roles())
      with_pool(
          small_pool(transport), roles,
          [&](Pool& pool) {
            Client client(pool, "shared"), own(pool, "tenant " + std::to_string(world().rank()));
            Random draw(11, static_cast<std::uint64_t>(world().rank()));
            std::vector<std::byte> buffer(20000);
            for (int turn = 0; turn < 1000; ++turn) {
              Client& chosen = draw.uniform() < 0.7 ? client : own;
              const Key key = key_number(draw.below(200));
              const double kind = draw.uniform();
              const std::size_t bytes = 24 + draw.below(draw.uniform() < 0.1 ? 19000 : 3000);
              if (kind < 0.35) {
                const PutMode mode = draw.uniform() < 0.5 ? PutMode::keep : PutMode::replace;
                const Status status = put_version(chosen, key, static_cast<std::uint64_t>(turn), bytes, mode);
                CHECK((status == Status::stored || status == Status::already_there || status == Status::full));
              } else if (kind < 0.45) {
                chosen.store_async(key, make_payload(key, static_cast<std::uint64_t>(turn), bytes));
              } else if (kind < 0.5) {
                const Status status = chosen.remove(key);
                CHECK((status == Status::removed || status == Status::not_there));
              } else {
                const Found found = chosen.get(key, buffer);
                CHECK(found.reason != MissReason::owner_down);
                if (found.hit()) CHECK(check_payload(key, std::span(buffer).first(found.length)) >= 0);
              }
            }
            CHECK(client.drain(30) == 0);
            CHECK(own.drain(30) == 0);
            check_client(client.stats());
            check_client(own.stats());
          },
          [](Pool& pool) {
            meet(pool);
            if (!pool.is_owner()) return;
            CHECK(core_of(pool).shard->consistent());
            CHECK(pool.owner_stats().writing == 0);
            check_owner(pool.owner_stats());
          });
}

TEST_CASE("a pool of impossible shape is refused on every rank, in one line") {
  using Catch::Matchers::Contains;
  PoolConfig config = small_pool("auto");
  CHECK_THROWS_WITH(Pool(world(), {world().size()}, config), Contains("is not one of"));
  CHECK_THROWS_WITH(Pool(world(), {}, config), Contains("at least one owner"));
  config.granule = {100};
  CHECK_THROWS_WITH(Pool(world(), {0}, config), Contains("pool.granule"));
}
