// Owners that go silent, and owners that stop.
#include <chrono>
#include <thread>

#include "memory_pool/ring.hpp"
#include "tests/memory_pool/pool_fixture.hpp"

using namespace supernode;
using namespace supernode::test;
using namespace supernode::pool;

TEST_CASE("a silent owner costs its keys, not the job") {
  if (world().size() < 2) return;
  for (const std::string transport : {"auto", "rma"}) {
    const int owners = world().size() - 1;  // the last rank is the client
    PoolConfig config = small_pool(transport);
    config.deadline = 0.2;
    const Flag flag;
    Pool pool(world(), first_ranks(owners), config);
    const bool is_client = world().rank() == world().size() - 1;
    Key lost, kept;
    for (std::uint64_t i = 0; lost == Key{}; ++i)
      if (pool.view().owner_of(key_number(i)) == 0) lost = key_number(i);
    for (std::uint64_t i = 0; kept == Key{} && owners > 1; ++i)
      if (pool.view().owner_of(key_number(i)) != 0) kept = key_number(i);

    if (is_client) {
      // Where many ranks share a core, even a willing owner may take longer than this deadline.
      Client client(pool);
      const Status first = client.put(lost, make_payload(lost, 1, 500));
      CHECK((first == Status::stored || first == Status::owner_down));
    }
    meet(pool);
    world().barrier();  // in meet() rank 0 serves until it has heard of everybody, which others need not wait for

    if (world().rank() == 0) {
      flag.wait();
    } else if (is_client) {
      Client client(pool);
      std::vector<std::byte> buffer(500);
      // Shared memory can be read without the owner; the first write finds it silent.
      client.store_async(lost, make_payload(lost, 2, 500), PutMode::replace);
      CHECK(client.drain(30) == 0);
      CHECK(client.stats().stores[static_cast<std::size_t>(Status::owner_down)] == 1);
      CHECK_FALSE(pool.view().is_live(0));
      CHECK(client.get(lost, buffer).reason == MissReason::owner_down);
      CHECK(client.lookup({&lost, 1}).front().reason == MissReason::owner_down);
      CHECK_FALSE(pool.fetch_stats(0).has_value());
      if (owners == 1) {
        CHECK(client.put(lost, make_payload(lost, 3, 500)) == Status::owner_down);
        CHECK(client.remove(lost) == Status::owner_down);
        CHECK(client.drain(0.1) == 0);
      } else {
        // The others take over its keys.
        CHECK(client.put(lost, make_payload(lost, 3, 500)) == Status::stored);
        CHECK(client.get(lost, buffer).hit());
        CHECK(check_payload(lost, buffer) == 3);
        CHECK(client.put(kept, make_payload(kept, 3, 500)) != Status::owner_down);
        CHECK(client.get(kept, buffer).hit());
      }
      CHECK(client.stats().gets.hits + client.stats().gets.misses() == client.stats().gets.asked);
      flag.raise();
    }
    meet(pool);
    if (world().rank() == 0) CHECK(core_of(pool).shard->consistent());
    meet(pool);
  }
}

TEST_CASE("an owner that has left comes back: as it was, empty, or with its files") {
  if (world().size() < 2) return;
  enum class Return { as_it_was, empty, with_files };
  for (const std::string transport : {"auto", "rma"})
    for (const Return how : {Return::as_it_was, Return::empty, Return::with_files}) {
      const Folder folder;
      PoolConfig config = small_pool(transport);
      config.deadline = 0.3;
      if (how == Return::with_files) config.directory = folder.text();
      const int owners = world().size() - 1;  // the last rank is the client
      const bool is_client = world().rank() == owners;
      Pool pool(world(), first_ranks(owners), config);
      Key lost;
      for (std::uint64_t i = 0; lost == Key{}; ++i)
        if (pool.view().owner_of(key_number(i)) == 0) lost = key_number(i);
      std::optional<Client> client;
      std::vector<std::byte> buffer(500);
      if (is_client) {
        client.emplace(pool);
        CHECK(pool.create_namespace("promised", 1000) == Status::stored);
        // A loaded machine may be slower than this deadline.
        for (int attempt = 0; attempt < 20 && client->put(lost, make_payload(lost, 1, 500)) != Status::stored;)
          ++attempt;
        CHECK(client->get(lost, buffer).hit());
      }
      meet(pool);
      const std::uint64_t version = pool.view().version();
      if (world().rank() == 0) pool.simulate_silence(1.5, how != Return::as_it_was);
      if (is_client) {
        CHECK(client->remove(key_number(1u << 20)) != Status::stored);  // whoever owns it
        // Stores of the key meet the silence; then it is a miss with that reason.
        client->store_async(lost, make_payload(lost, 1, 500), PutMode::replace);
        CHECK(client->drain(30) == 0);
        CHECK(client->get(lost, buffer).reason == MissReason::owner_down);
        CHECK(pool.view().version() > version);
        const std::uint64_t gone = pool.view().version();
        wait_until([&] { return client->progress(), pool.view().is_live(0); }, 60,
                   [] { return std::string("the owner did not come back"); });
        CHECK(pool.view().version() > gone);
        const Found found = client->get(lost, buffer);
        INFO(transport << " " << static_cast<int>(how) << " " << to_string(found.reason));
        if (how == Return::empty) {
          CHECK(found.reason == MissReason::never_stored);
          for (int attempt = 0; attempt < 20 && client->put(lost, make_payload(lost, 2, 500)) != Status::stored;)
            ++attempt;
          CHECK(client->get(lost, buffer).hit());
        } else {
          CHECK(found.hit());
          CHECK(check_payload(lost, buffer) == 1);
        }
        const auto stats = pool.fetch_stats(0);
        if (stats) CHECK(stats->namespaces == 1);  // created again for it
        CHECK(client->stats().gets.hits + client->stats().gets.misses() == client->stats().gets.asked);
        client.reset();
      }
      meet(pool);
      if (pool.is_owner()) CHECK(core_of(pool).shard->consistent());
      meet(pool);
    }
}

TEST_CASE("an owner that comes back shows nothing older than what others have been told since") {
  if (world().size() < 3) return;
  PoolConfig config = small_pool("auto");
  config.deadline = 0.5;
  const int owners = world().size() - 1;  // the last rank is the client
  Pool pool(world(), first_ranks(owners), config);
  std::vector<Key> at_home;  // on rank 0
  for (std::uint64_t i = 0; at_home.size() < 2; ++i)
    if (pool.view().home_of(key_number(i)) == 0) at_home.push_back(key_number(i));
  const Key rewritten = at_home[0], fresh = at_home[1];
  const bool is_client = world().rank() == owners;
  std::optional<Client> client, gone;
  std::vector<std::byte> buffer(500);
  const auto put_until_stored = [&](Client& writer, const Key& key, std::uint64_t version, PutMode mode) {
    // A loaded machine may be slower than this deadline.
    Status status = Status::owner_down;
    for (int attempt = 0; attempt < 50 && status == Status::owner_down; ++attempt)
      status = writer.put(key, make_payload(key, version, 500), mode);
    CHECK(status == Status::stored);
  };
  if (is_client) {
    client.emplace(pool);
    gone.emplace(pool, "gone");
    CHECK(pool.create_namespace("gone", 1000) == Status::stored);
    put_until_stored(*client, rewritten, 1, PutMode::replace);
    put_until_stored(*gone, rewritten, 1, PutMode::keep);
  }
  meet(pool);
  if (world().rank() == 0) pool.simulate_silence(2.5, false);
  if (is_client) {
    client->store_async(rewritten, make_payload(rewritten, 2, 500), PutMode::replace);
    CHECK(client->drain(30) == 0);
    CHECK_FALSE(pool.view().is_live(0));
    // What is there already may be rewritten or removed at home only; what is new goes to the one that stands in.
    CHECK(client->put(rewritten, make_payload(rewritten, 2, 500), PutMode::replace) == Status::owner_down);
    CHECK(client->remove(rewritten) == Status::owner_down);
    put_until_stored(*client, fresh, 1, PutMode::keep);
    CHECK(client->get(fresh, buffer).hit());
    pool.delete_namespace("gone");
    wait_until([&] { return client->progress(), pool.view().is_live(0); }, 60,
               [] { return std::string("the owner did not come back"); });
    // Nothing newer was acknowledged. What stood in for it is gone, and so is the namespace.
    CHECK(client->get(rewritten, buffer).hit());
    CHECK(check_payload(rewritten, buffer) == 1);
    CHECK_FALSE(client->get(fresh, buffer).hit());
    CHECK_FALSE(gone->get(rewritten, buffer).hit());
    put_until_stored(*client, rewritten, 3, PutMode::replace);
    CHECK(client->get(rewritten, buffer).hit());
    CHECK(check_payload(rewritten, buffer) == 3);
    client.reset();
    gone.reset();
  }
  meet(pool);
  if (pool.is_owner()) {
    CHECK(core_of(pool).shard->stats().entries == (world().rank() == 0 ? 1 : 0));
    CHECK(core_of(pool).shard->consistent());
  }
  meet(pool);
}

TEST_CASE("reads that an owner does not serve end at the deadline") {
  if (world().size() < 2) return;
  PoolConfig config = small_pool("rma");
  config.deadline = 0.2;
  const Flag flag;
  Pool pool(world(), {0}, config);
  meet(pool);
  if (world().rank() == 0) {
    flag.wait();
  } else {
    // Whether this transport needs the owner's help depends on the MPI library: a miss either way, and no hang.
    Client client(pool);
    std::vector<std::byte> buffer(500);
    const Found found = client.get(key_number(1), buffer);
    CHECK((found.reason == MissReason::never_stored || found.reason == MissReason::owner_down));
    if (world().rank() == world().size() - 1) flag.raise();
  }
  meet(pool);
}

TEST_CASE("a pause of the client is not the silence of the owner") {
  PoolConfig config = small_pool("auto");
  config.deadline = 0.3;
  with_pool(config, {1, world().size() == 1}, [](Pool& pool) {
    Client client(pool, "tenant " + std::to_string(world().rank()));
    client.store_async(key_number(1), make_payload(key_number(1), 1, 500));
    std::this_thread::sleep_for(std::chrono::milliseconds(700));  // computing
    CHECK(client.drain(30) == 0);
    CHECK(client.stats().stores[static_cast<std::size_t>(Status::stored)] == 1);
    CHECK(pool.view().is_live(0));
  });
}

TEST_CASE("owners that sit in other collectives are served when they return") {
  // Every rank owns and uses; each computes for a while, at different times.
  with_pool(small_pool("auto"), {world().size(), true}, [](Pool& pool) {
    Client client(pool, "tenant " + std::to_string(world().rank()));
    for (int turn = 0; turn < 8; ++turn) {
      if (turn % world().size() == world().rank()) std::this_thread::sleep_for(std::chrono::milliseconds(20));
      const Key key = key_number(static_cast<std::uint64_t>(turn));
      CHECK(client.put(key, make_payload(key, 0, 300)) == Status::stored);
    }
  });
}
