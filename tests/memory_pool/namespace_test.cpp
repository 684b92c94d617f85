// Tenants: what one does must not show in what another has.
#include <fstream>
#include <map>

#include "runtime/core/error.hpp"
#include "tests/memory_pool/pool_fixture.hpp"

using namespace supernode;
using namespace supernode::test;
using namespace supernode::pool;

namespace {

constexpr std::size_t bytes = 1000;  // four granules

Status put_number(Client& client, std::uint64_t number) {
  return client.put(key_number(number), make_payload(key_number(number), 1, bytes));
}

/// Blocks [0, count) of `client` that are there and intact.
std::uint64_t intact(Client& client, std::uint64_t count) {
  std::vector<std::byte> buffer(bytes);
  std::uint64_t there = 0;
  for (std::uint64_t i = 0; i < count; ++i)
    there += client.get(key_number(i), buffer).hit() && check_payload(key_number(i), buffer) == 1;
  return there;
}

}  // namespace

TEST_CASE("a tenant cannot see, evict or crowd out another") {
  for (const std::string transport : {"auto", "rma"})
    for (const bool files : {false, true}) {
      const Folder folder;
      PoolConfig config = small_pool(transport);
      if (files) {
        config.directory = folder.text();
        config.directory_limit = {1 << 20};
      }
      // One client, the last rank; all ranks own.
      with_pool(
          config, {world().size(), true},
          [&](Pool& pool) {
            if (world().rank() != world().size() - 1) return;
            const auto owners = static_cast<std::uint64_t>(world().size());
            CHECK(pool.create_namespace("careful", 64 << 10) == Status::stored);
            CHECK(pool.create_namespace("greedy", 32 << 10) == Status::stored);
            CHECK(pool.create_namespace("greedy", 64 << 10) == Status::already_there);
            CHECK(pool.create_namespace("immodest", 200 << 10) == Status::quota);
            Client careful(pool, "careful"), greedy(pool, "greedy"), stranger(pool, "stranger");
            const std::uint64_t mine = 20;  // fits on one owner
            for (std::uint64_t i = 0; i < mine; ++i) CHECK(put_number(careful, i) == Status::stored);

            // See: not by reading, asking, or removing.
            std::vector<std::byte> buffer(bytes);
            for (std::uint64_t i = 0; i < mine; ++i) {
              CHECK(greedy.get(key_number(i), buffer).reason == MissReason::other_namespace);
              CHECK_FALSE(stranger.lookup(std::vector<Key>{key_number(i)}).front().hit());
              CHECK(greedy.remove(key_number(i)) == Status::not_there);
            }
            // Evict, fill up: four times all memory, by one with a quota and by one without.
            for (std::uint64_t i = 0; i < owners * 1000; ++i) {
              CHECK(put_number(greedy, i) == Status::stored);
              CHECK(put_number(stranger, i) == Status::stored);
            }
            CHECK(intact(careful, mine) == mine);
            if (!files) CHECK(intact(greedy, owners * 1000) <= owners * 32);  // 32 KiB of each owner
            CHECK(greedy.put(key_number(1), std::vector<std::byte>(40 << 10), PutMode::replace) == Status::quota);
            // What was lent to the stranger comes back.
            for (std::uint64_t i = mine; i < 40; ++i) CHECK(put_number(careful, i) == Status::stored);
            CHECK(intact(careful, 40) == 40);

            CHECK(pool.delete_namespace("greedy") == Status::removed);
            CHECK(pool.delete_namespace("greedy") == Status::not_there);
            CHECK(intact(greedy, owners * 1000) == 0);
            CHECK(intact(careful, 40) == 40);
            CHECK(pool.create_namespace("modest", 100 << 10) == Status::stored);  // the promise is free again
          },
          [](Pool& pool) {
            meet(pool);
            CHECK(core_of(pool).shard->consistent());
            CHECK(pool.owner_stats().namespaces == 2);
          });
    }
}

TEST_CASE("where namespaces are closed, a tenant must be created first") {
  PoolConfig config = small_pool("auto");
  config.open_namespaces = false;
  with_pool(config, {world().size(), true}, [](Pool& pool) {
    Client client(pool, "tenant " + std::to_string(world().rank()));
    CHECK(put_number(client, 1) == Status::no_namespace);
    CHECK(pool.create_namespace(client.name_space(), 0) == Status::stored);
    CHECK(put_number(client, 1) == Status::stored);
    CHECK(pool.delete_namespace(client.name_space()) == Status::removed);
    CHECK(put_number(client, 2) == Status::no_namespace);
    CHECK(intact(client, 2) == 0);
  });
}

TEST_CASE("after a restart every tenant has its blocks and its promise, whoever asks first") {
  for (const std::string transport : {"auto", "rma"}) {
    const Folder folder;
    PoolConfig config = small_pool(transport);
    config.directory = folder.text();
    config.directory_limit = {4 << 20};
    config.open_namespaces = false;
    constexpr std::uint64_t quota = 64 << 10, count = 20;
    const auto promised = [](Pool& pool) {
      std::uint64_t least = ~std::uint64_t{0};
      for (const int owner : pool.owners())
        least = std::min(least, pool.fetch_stats(owner).value_or(OwnerStats{}).promised);
      return least;
    };
    const auto run = [&](const std::function<void(Pool&)>& use) {
      with_pool(config, {world().size(), true}, [&](Pool& pool) {
        if (world().rank() == world().size() - 1) use(pool);
      });
    };
    run([&](Pool& pool) {
      CHECK(pool.create_namespace("early", quota) == Status::stored);
      CHECK(pool.create_namespace("late", quota / 2) == Status::stored);
      CHECK(pool.create_namespace("no promise", 0) == Status::stored);
      Client early(pool, "early"), late(pool, "late");
      for (std::uint64_t i = 0; i < count; ++i) CHECK(put_number(early, i) == Status::stored);
      for (std::uint64_t i = 100; i < 110; ++i) CHECK(put_number(late, i) == Status::stored);
    });
    run([&](Pool& pool) {
      // Nobody has created anything in this run.
      CHECK(promised(pool) == quota + quota / 2);
      Client early(pool, "early"), late(pool, "late"), stranger(pool, "stranger"), free(pool, "no promise");
      CHECK(intact(late, count) == 0);
      CHECK(intact(early, count) == count);
      CHECK(put_number(stranger, 1) == Status::no_namespace);
      for (std::uint64_t i = 0; i < 1000; ++i) CHECK(put_number(free, i) == Status::stored);
      CHECK(intact(early, count) == count);
      // In another order than before; with other terms it is not the same.
      CHECK(pool.create_namespace("late", quota / 2) == Status::stored);
      CHECK(pool.create_namespace("early", quota) == Status::stored);
      CHECK(pool.create_namespace("early", quota) == Status::already_there);
      CHECK(pool.create_namespace("no promise", 1000) == Status::already_there);
      CHECK(pool.create_namespace("immodest", 200 << 10) == Status::quota);
      CHECK(intact(early, count) == count);
      CHECK(pool.delete_namespace("late") == Status::removed);
    });
    run([&](Pool& pool) {
      CHECK(promised(pool) == quota);
      Client early(pool, "early"), late(pool, "late");
      std::vector<std::byte> buffer(bytes);
      CHECK_FALSE(late.get(key_number(100), buffer).hit());
      CHECK(put_number(late, 1) == Status::no_namespace);
      CHECK(intact(early, count) == count);
    });
    if (world().rank() == 0)
      std::ofstream(folder.text() + "/owner-0/" + internal::namespace_file_name) << "not what was written";
    run([&](Pool& pool) {
      CHECK(promised(pool) == 0);
      const Status again = pool.create_namespace("early", quota);
      CHECK(again == Status::stored);
      Client early(pool, "early"), other(pool, "no promise");
      CHECK(intact(early, count) == count);
      CHECK(other.lookup(std::vector<Key>{key_number(0)}).front().reason != MissReason::owner_down);
    });
  }
}

TEST_CASE("a name whose number is taken is refused on every owner") {
  std::map<NamespaceId, std::string> seen;
  std::string one, two;
  for (int i = 0; one.empty(); ++i) {
    const std::string name = "tenant " + std::to_string(i);
    const auto [there, fresh] = seen.emplace(namespace_id(name), name);
    if (fresh) continue;
    one = there->second;
    two = name;
  }
  with_pool(small_pool("auto"), {world().size(), true}, [&](Pool& pool) {
    if (world().rank() != 0) return;
    CHECK(pool.create_namespace(one, 1000) == Status::stored);
    CHECK(pool.create_namespace(two, 1000) == Status::name_clash);
    CHECK(pool.owner_stats().namespaces == 1);
    CHECK_THROWS_AS(pool.create_namespace("", 1000), UsageError);
    CHECK_THROWS_AS(pool.create_namespace(std::string(2000, 'x'), 1000), UsageError);
  });
}
