// Tenants: what one does must not show in what another has.
#include "memory_pool/internal/pool_core.hpp"
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
            CHECK(pool.core().shard->consistent());
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
