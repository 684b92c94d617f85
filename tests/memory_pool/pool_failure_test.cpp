// Owners that go silent, and owners that stop. Their silence is a flag that is not raised, and the client's time is the
// test's: no deadline ends because the machine is slow.
#include <chrono>
#include <thread>

#include "tests/memory_pool/pool_fixture.hpp"

using namespace supernode;
using namespace supernode::test;
using namespace supernode::pool;

namespace {

constexpr std::size_t block_bytes = 500;

Status put_version(Client& client, const Key& key, std::uint64_t version, PutMode mode = PutMode::keep) {
  return client.put(key, make_payload(key, version, block_bytes), mode);
}

/// The version that a get finds; -1 for a miss or a wrong byte.
long long version_of(Client& client, const Key& key) {
  std::vector<std::byte> buffer(block_bytes);
  return client.get(key, buffer).hit() ? check_payload(key, buffer) : -1;
}

MissReason miss_of(Client& client, const Key& key) {
  std::vector<std::byte> buffer(block_bytes);
  return client.get(key, buffer).reason;
}

std::uint64_t count_of(const Client& client, Status status) {
  return client.stats().stores[static_cast<std::size_t>(status)];
}

void check_counters(const Client& client) {
  CHECK(client.stats().gets.hits + client.stats().gets.misses() == client.stats().gets.asked);
}

/// Owners are all ranks but the last, which is the client. The first is the one that goes silent.
struct SilentOwner {
  explicit SilentOwner(const PoolConfig& config) : pool(world(), first_ranks(owners), config) {}

  bool is_client() const { return world().rank() == owners; }
  bool is_silent() const { return world().rank() == 0; }
  /// A store of `key`, which belongs to the silent owner, meets its silence.
  void notice(Client& client, const Key& key) {
    clock.run();
    // Shared memory can be read without the owner; the first write finds it silent.
    client.store_async(key, make_payload(key, 2, block_bytes), PutMode::replace);
    CHECK(client.drain(30) == 0);
    clock.stand();
    CHECK(count_of(client, Status::owner_down) == 1);
    CHECK_FALSE(pool.view().is_live(0));
  }
  void await_return(Client& client) {
    flag.raise();
    wait_until([&] { return client.progress(), pool.view().is_live(0); }, 60,
               [] { return std::string("the owner did not come back"); });
  }
  /// At the end, all ranks.
  void check_shards() {
    meet(pool);
    if (pool.is_owner()) CHECK(core_of(pool).shard->consistent());
    meet(pool);
  }

  int owners = world().size() - 1;
  Flag flag;
  Pool pool;
  TestClock clock{pool};
};

}  // namespace

TEST_CASE("a silent owner costs its keys, not the job") {
  if (world().size() < 2) return;
  for (const std::string transport : {"auto", "rma"}) {
    SilentOwner owner(small_pool(transport));
    Pool& pool = owner.pool;
    const Key lost = key_at(pool, 0), kept = key_at(pool, owner.owners - 1, 1);
    std::optional<Client> client;
    if (owner.is_client()) {
      client.emplace(pool);
      CHECK(put_version(*client, lost, 1) == Status::stored);
    }
    meet(pool);
    if (owner.is_silent()) {
      stay_silent(pool, owner.flag, MemoryFate::kept);
    } else if (owner.is_client()) {
      owner.notice(*client, lost);
      CHECK(miss_of(*client, lost) == MissReason::owner_down);
      CHECK(client->lookup({&lost, 1}).front().reason == MissReason::owner_down);
      owner.clock.run();
      CHECK_FALSE(pool.fetch_stats(0).has_value());
      owner.clock.stand();
      if (owner.owners == 1) {
        CHECK(put_version(*client, lost, 3) == Status::owner_down);
        CHECK(client->remove(lost) == Status::owner_down);
        CHECK(client->drain(0.1) == 0);
      } else {
        // The others take over its keys.
        CHECK(put_version(*client, lost, 3) == Status::stored);
        CHECK(version_of(*client, lost) == 3);
        CHECK(put_version(*client, kept, 3) == Status::stored);
        CHECK(version_of(*client, kept) == 3);
      }
      check_counters(*client);
      client.reset();
      owner.flag.raise();
    }
    owner.check_shards();
  }
}

TEST_CASE("an owner that has left comes back: as it was, empty, or with its files") {
  if (world().size() < 2) return;
  enum class Return { as_it_was, empty, with_files };
  for (const std::string transport : {"auto", "rma"})
    for (const Return how : {Return::as_it_was, Return::empty, Return::with_files}) {
      INFO(transport << " " << static_cast<int>(how));
      const Folder folder;
      PoolConfig config = small_pool(transport);
      if (how == Return::with_files) config.directory = folder.text();
      SilentOwner owner(config);
      Pool& pool = owner.pool;
      const Key lost = key_at(pool, 0);
      std::optional<Client> client;
      if (owner.is_client()) {
        client.emplace(pool);
        CHECK(pool.create_namespace("promised", 1000) == Status::stored);
        CHECK(put_version(*client, lost, 1) == Status::stored);
        CHECK(version_of(*client, lost) == 1);
      }
      meet(pool);
      const std::uint64_t version = pool.view().version();
      if (owner.is_silent())
        stay_silent(pool, owner.flag, how == Return::as_it_was ? MemoryFate::kept : MemoryFate::lost);
      if (owner.is_client()) {
        owner.notice(*client, lost);
        CHECK(client->remove(lost) == Status::owner_down);
        CHECK(miss_of(*client, lost) == MissReason::owner_down);
        CHECK(pool.view().version() == version + 1);
        owner.await_return(*client);
        CHECK(pool.view().version() == version + 2);
        if (how == Return::empty) {
          CHECK(miss_of(*client, lost) == MissReason::never_stored);
          CHECK(put_version(*client, lost, 2) == Status::stored);
          CHECK(version_of(*client, lost) == 2);
        } else {
          CHECK(version_of(*client, lost) == 1);
        }
        CHECK(pool.fetch_stats(0).value_or(OwnerStats{}).namespaces == 1);  // created again for it
        check_counters(*client);
        client.reset();
      }
      owner.check_shards();
    }
}

TEST_CASE("an owner that comes back shows nothing older than what others have been told since") {
  if (world().size() < 3) return;
  SilentOwner owner(small_pool("auto"));
  Pool& pool = owner.pool;
  const Key rewritten = key_at(pool, 0, 0), fresh = key_at(pool, 0, 1);
  std::optional<Client> client, gone;
  if (owner.is_client()) {
    client.emplace(pool);
    gone.emplace(pool, "gone");
    CHECK(pool.create_namespace("gone", 1000) == Status::stored);
    CHECK(put_version(*client, rewritten, 1, PutMode::replace) == Status::stored);
    CHECK(put_version(*gone, rewritten, 1) == Status::stored);
  }
  meet(pool);
  if (owner.is_silent()) stay_silent(pool, owner.flag, MemoryFate::kept);
  if (owner.is_client()) {
    owner.notice(*client, rewritten);
    // What is there already may be rewritten or removed at home only; what is new goes to the one that stands in.
    CHECK(put_version(*client, rewritten, 2, PutMode::replace) == Status::owner_down);
    CHECK(client->remove(rewritten) == Status::owner_down);
    CHECK(put_version(*client, fresh, 1) == Status::stored);
    CHECK(version_of(*client, fresh) == 1);
    CHECK(pool.delete_namespace("gone") == Status::removed);  // from those that are here
    owner.await_return(*client);
    // Nothing newer was acknowledged. What stood in for it is gone, and so is the namespace.
    CHECK(version_of(*client, rewritten) == 1);
    CHECK(version_of(*client, fresh) == -1);
    CHECK(version_of(*gone, rewritten) == -1);
    CHECK(put_version(*client, rewritten, 3, PutMode::replace) == Status::stored);
    CHECK(version_of(*client, rewritten) == 3);
    client.reset();
    gone.reset();
  }
  meet(pool);
  if (pool.is_owner()) CHECK(core_of(pool).shard->stats().entries == (owner.is_silent() ? 1 : 0));
  owner.check_shards();
}

TEST_CASE("reads that an owner does not serve end at the deadline") {
  if (world().size() < 2) return;
  const Flag flag;
  Pool pool(world(), {0}, small_pool("rma"));
  TestClock clock(pool);
  const bool is_client = world().rank() > 0;
  const Communicator clients = world().split(is_client ? 0 : MPI_UNDEFINED, 0);
  meet(pool);
  if (is_client) {
    Client client(pool);
    // Where the transport needs no help of the owner, its memory is read, and holds nothing.
    const bool readable = reads_need_no_owner(pool, 0);
    if (!readable) clock.run();
    CHECK(miss_of(client, key_number(1)) == (readable ? MissReason::never_stored : MissReason::owner_down));
    clock.stand();
    clients.barrier();
    if (clients.rank() == 0) flag.raise();
  } else {
    flag.wait();
  }
  meet(pool);
}

TEST_CASE("a pause of the client is not the silence of the owner") {
  PoolConfig config = small_pool("auto");
  config.deadline = 0.3;
  with_pool(config, {1, world().size() == 1}, [](Pool& pool) {
    TestClock clock(pool);
    Client client(pool, "tenant " + std::to_string(world().rank()));
    client.store_async(key_number(1), make_payload(key_number(1), 1, block_bytes));
    clock.pass(10);  // computing
    CHECK(client.drain(30) == 0);
    CHECK(count_of(client, Status::stored) == 1);
    CHECK(pool.view().is_live(0));
  });
}

TEST_CASE("owners that sit in other collectives are served when they return") {
  // Every rank owns and uses; each computes for a while, at different times.
  with_pool(small_pool("auto"), {world().size(), true}, [](Pool& pool) {
    Client client(pool, "tenant " + std::to_string(world().rank()));
    for (int turn = 0; turn < 8; ++turn) {
      if (turn % world().size() == world().rank()) std::this_thread::sleep_for(std::chrono::milliseconds(20));
      CHECK(put_version(client, key_number(static_cast<std::uint64_t>(turn)), 0) == Status::stored);
    }
  });
}

TEST_CASE("who is done early serves those who are not, and an error of one is everybody's") {
  for (const std::string transport : {"auto", "rma"}) {
    Pool pool(world(), {0}, small_pool(transport));
    const int last = world().size() - 1;
    const std::function<void()> nothing;
    const std::function<void()> use = [&] {
      Client client(pool);
      for (std::uint64_t i = 0; i < 20; ++i) CHECK(put_version(client, key_number(i), i) == Status::stored);
      for (std::uint64_t i = 0; i < 20; ++i) CHECK(version_of(client, key_number(i)) == static_cast<long long>(i));
    };
    pool.serve_until_all(world(), world().rank() == last ? use : nothing, {.deadline_s = 60});
    const std::function<void()> fail = [] { throw UsageError("it went wrong"); };
    CHECK_THROWS_WITH(pool.serve_until_all(world(), world().rank() == last ? fail : nothing, {.deadline_s = 60}),
                      Catch::Matchers::Contains("it went wrong"));
    meet(pool);
  }
}
