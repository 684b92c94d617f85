// The pool with files under its DRAM.
#include <csignal>
#include <fstream>

#include <sys/resource.h>

#include "runtime/core/error.hpp"
#include "tests/memory_pool/pool_fixture.hpp"

using namespace supernode;
using namespace supernode::test;
using namespace supernode::pool;

TEST_CASE("blocks that DRAM cannot hold come back from the files, now and after a restart") {
  for (const std::string transport : {"auto", "rma"})
    for (const DirectorySync sync : {DirectorySync::write, DirectorySync::disk})
      for (const Roles& roles : all_roles()) {
        const Folder folder;
        PoolConfig config = small_pool(transport);
        config.directory = folder.text();
        config.directory_sync = sync;
        config.directory_limit = {64 << 20};
        constexpr std::uint64_t blocks = 150;  // of 4 KiB for each tenant: more than an owner's 256 KiB
        for (int round = 0; round < 2; ++round)
          with_pool(
              config, roles,
              [&](Pool& pool) {
                Client client(pool, "tenant " + std::to_string(world().rank())), other(pool, "nobody");
                std::vector<std::byte> buffer(4096);
                const auto version = static_cast<std::uint64_t>(world().rank());
                if (round == 0) {
                  for (std::uint64_t i = 0; i < blocks; ++i)
                    CHECK(client.put(key_number(i), make_payload(key_number(i), version, 4096)) == Status::stored);
                  CHECK(client.remove(key_number(7)) == Status::removed);
                  CHECK(client.remove(key_number(blocks + 7)) == Status::not_there);
                  CHECK(client.put(key_number(8), make_payload(key_number(8), 1000, 3000), PutMode::replace) ==
                        Status::stored);
                }
                for (std::uint64_t i = 0; i < blocks; ++i) {
                  const Found found = client.get(key_number(i), buffer);
                  CHECK(found.hit() == (i != 7));
                  if (found.hit())
                    CHECK(check_payload(key_number(i), std::span(buffer).first(found.length)) ==
                          (i == 8 ? 1000 : static_cast<long long>(version)));
                }
                const std::vector<Key> some{key_number(0), key_number(7), key_number(9)};
                const std::vector<Found> there = client.lookup(some);
                CHECK(there[0].hit());
                CHECK_FALSE(there[1].hit());
                CHECK(there[2].hit());
                for (const Found& found : other.lookup(some)) CHECK_FALSE(found.hit());
                CHECK(client.stats().gets.hits + client.stats().gets.misses() == client.stats().gets.asked);
                if (roles.owners_use) meet(pool);
                OwnerStats all;
                for (const int owner : pool.owners())
                  if (const auto stats = pool.fetch_stats(owner)) {
                    all.promotions += stats->promotions;
                    all.files.recovered += stats->files.recovered;
                    all.files.write_errors += stats->files.write_errors;
                  }
                CHECK(all.promotions > 0);
                CHECK((round == 0) == (all.files.recovered == 0));
                CHECK(all.files.write_errors == 0);
                if (roles.owners_use) meet(pool);
              },
              [](Pool& pool) {
                if (pool.is_owner()) CHECK(core_of(pool).shard->consistent());
              });
      }
}

TEST_CASE("while the disk has no room, stores say so and the pool goes on") {
  const Folder folder;
  PoolConfig config = small_pool("auto");
  config.directory = folder.text();
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  with_pool(config, {world().size(), true}, [](Pool& pool) {
    Client client(pool, "tenant " + std::to_string(world().rank()));
    const Key small = key_number(1), large = key_number(2);
    CHECK(client.put(small, make_payload(small, 1, 100)) == Status::stored);
    meet(pool);
    struct rlimit before;
    ::getrlimit(RLIMIT_FSIZE, &before);
    struct rlimit tight = before;
    tight.rlim_cur = 4096;  // writes beyond fail
    ::setrlimit(RLIMIT_FSIZE, &tight);
    meet(pool);
    CHECK(client.put(large, make_payload(large, 1, 50000)) == Status::not_durable);
    std::vector<std::byte> buffer(50000);
    CHECK(client.get(large, buffer).hit());
    CHECK(check_payload(large, buffer) == 1);
    meet(pool);
    ::setrlimit(RLIMIT_FSIZE, &before);
    meet(pool);
    CHECK(client.put(large, make_payload(large, 2, 50000), PutMode::replace) == Status::stored);
    CHECK(client.get(small, buffer).hit());
    CHECK(client.stats().stores[static_cast<std::size_t>(Status::not_durable)] == 1);
  });
  std::signal(SIGXFSZ, handler);
}

TEST_CASE("a directory that cannot be used is refused on every rank, in one line") {
  const Folder folder;
  if (world().rank() == 0) std::ofstream(folder.text()) << "a file";
  world().barrier();
  PoolConfig config = small_pool("auto");
  config.directory = folder.text();
  CHECK_THROWS_WITH(Pool(world(), first_ranks(world().size()), config), Catch::Matchers::Contains("pool.directory"));
}
