#include "runtime/serving/coordinator/modelled_pool.hpp"

#include <algorithm>
#include <string>

#include "runtime/core/error.hpp"
#include "runtime/core/random.hpp"
#include "tests/serving/modelled_pool_checks.hpp"
#include "tests/support/catch.hpp"

using namespace supernode;
using namespace supernode::serving;
using namespace supernode::test;
using pool::Key;

namespace {

constexpr int kTokens = 16;  // of a block

RunTime at(std::int64_t ns) { return RunTime{RunSpan(ns)}; }

/// One owner, unless said otherwise, that holds `blocks` blocks of 100 bytes in 3 pieces.
ModelledPoolConfig with_room_for(std::int64_t blocks, std::vector<int> owners = {0}) {
  return {.owners = std::move(owners),
          .virtual_nodes = 64,
          .capacity_bytes = blocks * 100,
          .block_tokens = kTokens,
          .block_bytes = 100,
          .pieces_per_block = 3,
          .keep_changes = true};
}

/// Keys of the blocks of a chain.
std::vector<Key> chain(const std::string& name, int blocks) {
  std::vector<Key> keys;
  for (int b = 0; b < blocks; ++b) keys.push_back(pool::key_of(name + '/' + std::to_string(b)));
  return keys;
}

Announced store(ModelledPool& pool, const std::vector<Key>& keys, std::int64_t now, std::int64_t visible_at) {
  Announced announced = pool.announce(keys, at(now));
  pool.publish(announced, at(visible_at));
  return announced;
}

/// A prompt of these blocks and some tokens more.
PrefixHit look(ModelledPool& pool, const std::vector<Key>& keys, std::int64_t now) {
  return pool.lookup(keys, static_cast<int>(keys.size()) * kTokens + 5, at(now));
}

std::vector<Key> evicted(const std::vector<PoolChange>& changes) {
  std::vector<Key> keys;
  for (const PoolChange& change : changes)
    if (change.kind == PoolChange::Kind::evicted) keys.push_back(change.key);
  return keys;
}

}  // namespace

TEST_CASE("a prompt finds the longest prefix of whole blocks and keeps a token to compute") {
  ModelledPool pool(with_room_for(100));
  const std::vector<Key> a = chain("a", 4);
  CHECK(look(pool, a, 0).blocks == 0);
  store(pool, a, 10, 20);

  const PrefixHit all = look(pool, a, 30);
  CHECK(all.blocks == 4);
  CHECK(all.tokens == 64);
  CHECK_FALSE(all.miss.has_value());
  CHECK(all.loads == std::vector<OwnerShare>{{0, 400, 12}});

  // A prompt that ends with its last block computes that block's last token, so it loads one block less.
  const PrefixHit exact = pool.lookup(a, 64, at(30));
  CHECK(exact.blocks == 3);
  CHECK(exact.loads == std::vector<OwnerShare>{{0, 300, 9}});
  CHECK(pool.lookup(std::vector<Key>(a.begin(), a.begin() + 1), kTokens, at(30)).blocks == 0);
  CHECK(pool.lookup({}, 3, at(30)).blocks == 0);

  // Another prompt with the same beginning.
  std::vector<Key> b = a;
  b[2] = pool::key_of("elsewhere");
  const PrefixHit two = look(pool, b, 30);
  CHECK(two.blocks == 2);
  CHECK(two.miss == BlockMiss::never_stored);

  CHECK(pool.stats().lookups == 6);
  CHECK(pool.stats().asked == 4 + 4 + 4 + 1 + 0 + 4);
  CHECK(pool.stats().hits == 4 + 4 + 1 + 2);
  CHECK(pool.stats().hit_tokens == 64 + 48 + 0 + 0 + 32);
  CHECK(misses(pool, BlockMiss::never_stored) == 4 + 1);
  CHECK(misses(pool, BlockMiss::prefix_missing) == 1);
  check_sums(pool);
}

TEST_CASE("a block is visible from its time on, and not a nanosecond before") {
  ModelledPool pool(with_room_for(100));
  const std::vector<Key> a = chain("a", 2);
  const Announced announced = pool.announce(a, at(5));
  CHECK(look(pool, a, 6).miss == BlockMiss::not_yet_visible);
  pool.publish(announced, at(1000));
  CHECK(pool.next_change() == at(1000));
  CHECK(pool.on_their_way() == 2);
  CHECK(look(pool, a, 999).blocks == 0);
  CHECK(pool.stats().owners[0].bytes == 0);
  CHECK(look(pool, a, 1000).blocks == 2);
  CHECK(pool.stats().owners[0].bytes == 200);
  CHECK_FALSE(pool.next_change().has_value());
  CHECK(pool.on_their_way() == 0);
  CHECK(misses(pool, BlockMiss::not_yet_visible) == 4);

  store(pool, chain("b", 1), 1000, 1000);  // written in no time
  CHECK(look(pool, chain("b", 1), 1000).blocks == 1);
  check_sums(pool);
}

TEST_CASE("a block that is there or on its way is not written again") {
  ModelledPool pool(with_room_for(100));
  const std::vector<Key> a = chain("a", 3);
  const Announced first = store(pool, std::vector<Key>(a.begin(), a.begin() + 2), 0, 100);
  CHECK(first.writes == std::vector<OwnerShare>{{0, 200, 6}});
  const Announced second = store(pool, a, 10, 50);  // overtakes
  CHECK(second.keys == std::vector<Key>{a[2]});
  CHECK(second.writes == std::vector<OwnerShare>{{0, 100, 3}});
  CHECK(look(pool, a, 60).blocks == 0);  // its prefix is still on its way
  CHECK(misses(pool, BlockMiss::prefix_missing) == 1);
  CHECK(look(pool, a, 100).blocks == 3);
  const Announced third = store(pool, a, 200, 300);
  CHECK(third.keys.empty());
  CHECK(third.writes.empty());
  CHECK(pool.stats().offered == 8);
  CHECK(pool.stats().announced == 3);
  CHECK(pool.stats().already_there == 5);
  check_sums(pool);
}

TEST_CASE("the least recently used blocks give way, and the end of a prompt before its beginning") {
  ModelledPool pool(with_room_for(4));
  const std::vector<Key> a = chain("a", 2), b = chain("b", 2), c = chain("c", 1), d = chain("d", 2);
  store(pool, a, 0, 10);
  store(pool, b, 0, 20);
  look(pool, a, 30);  // b is the oldest now
  pool.take_changes();

  store(pool, c, 40, 50);
  pool.advance(at(49));
  CHECK(pool.take_changes().empty());
  pool.advance(at(50));
  const std::vector<PoolChange> changes = pool.take_changes();
  REQUIRE(changes.size() == 2);
  CHECK(changes[0].kind == PoolChange::Kind::evicted);
  CHECK(changes[0].key == b[1]);
  CHECK(changes[1].kind == PoolChange::Kind::appeared);
  CHECK(changes[1].key == c[0]);
  CHECK(changes[1].owner == 0);
  CHECK(changes[1].at == at(50));

  CHECK(look(pool, b, 60).blocks == 1);  // b[0] is in use again
  CHECK(misses(pool, BlockMiss::evicted) == 1);
  store(pool, d, 60, 70);
  pool.advance(at(70));
  CHECK(evicted(pool.take_changes()) == std::vector<Key>{a[1], a[0]});
  CHECK(pool.stats().owners[0].bytes == 400);

  // What was evicted is stored anew.
  CHECK(store(pool, a, 80, 90).keys == a);
  pool.advance(at(90));
  CHECK(evicted(pool.take_changes()) == std::vector<Key>{c[0], b[0]});
  CHECK(pool.stats().evicted == 5);
  check_sums(pool);
}

TEST_CASE("announcing a block that is there counts as use; one on its way takes no room") {
  ModelledPool pool(with_room_for(2));
  store(pool, chain("a", 1), 0, 1);
  store(pool, chain("b", 1), 0, 2);
  store(pool, chain("a", 1), 5, 6);  // b is the oldest now
  store(pool, chain("c", 1), 7, 100);
  CHECK(look(pool, chain("b", 1), 99).blocks == 1);  // and a is
  CHECK(look(pool, chain("c", 1), 100).blocks == 1);
  CHECK(look(pool, chain("a", 1), 100).miss == BlockMiss::evicted);
  CHECK(look(pool, chain("b", 1), 100).blocks == 1);
}

TEST_CASE("a prompt larger than the pool keeps its beginning; a block larger than an owner is dropped") {
  ModelledPool small(with_room_for(3));
  const std::vector<Key> a = chain("a", 8);
  store(small, a, 0, 1);
  CHECK(look(small, a, 1).blocks == 3);
  CHECK(small.stats().evicted == 5);
  check_sums(small);

  ModelledPoolConfig config = with_room_for(1);
  config.capacity_bytes = 99;
  ModelledPool none(config);
  CHECK(store(none, a, 0, 1).writes.empty());
  CHECK(look(none, a, 2).miss == BlockMiss::never_stored);
  CHECK(none.stats().too_large == 8);
  check_sums(none);
}

TEST_CASE("blocks belong to the owners that the pool's ring names, each with room of its own") {
  const std::vector<int> ranks{7, 3, 12};
  ModelledPool pool(with_room_for(10, ranks));
  const pool::Ring ring(ranks, 64);
  const std::vector<Key> a = chain("a", 300);
  std::vector<OwnerShare> expected{{0, 0, 0}, {1, 0, 0}, {2, 0, 0}};
  for (const Key& key : a) {
    const auto owner = static_cast<std::size_t>(pool.owner_of(key));
    CHECK(ranks[owner] == ring.home_of(key));
    expected[owner].bytes += 100;
    expected[owner].pieces += 3;
  }
  CHECK(store(pool, a, 0, 1).writes == expected);
  const PrefixHit hit = look(pool, a, 1);
  for (const ModelledPoolStats::Owner& owner : pool.stats().owners) CHECK(owner.bytes == 1000);
  std::int64_t loaded = 0;
  for (const OwnerShare& share : hit.loads) loaded += share.bytes;
  CHECK(loaded == hit.blocks * 100);
  CHECK(hit.blocks >= 10);
  CHECK(hit.blocks < 31);
  check_sums(pool);
}

TEST_CASE("blocks become visible by time, then in the order in which they were published") {
  ModelledPool pool(with_room_for(10));
  store(pool, chain("late", 1), 0, 20);
  store(pool, chain("first", 1), 0, 10);
  store(pool, chain("second", 1), 0, 10);
  pool.advance(at(30));
  std::vector<Key> order;
  for (const PoolChange& change : pool.take_changes()) order.push_back(change.key);
  CHECK(order == std::vector<Key>{chain("first", 1)[0], chain("second", 1)[0], chain("late", 1)[0]});
}

TEST_CASE("settings of a pool that cannot be are refused; reasons have names") {
  CHECK_THROWS_AS(ModelledPool(with_room_for(1, {})), UsageError);
  const auto refused = [](auto change) {
    ModelledPoolConfig config = with_room_for(1);
    change(config);
    CHECK_THROWS_AS(ModelledPool(config), UsageError);
  };
  refused([](ModelledPoolConfig& config) { config.block_tokens = 0; });
  refused([](ModelledPoolConfig& config) { config.block_bytes = 0; });
  refused([](ModelledPoolConfig& config) { config.pieces_per_block = 0; });
  CHECK(to_string(BlockMiss::never_stored) == "never_stored");
  CHECK(to_string(BlockMiss::not_yet_visible) == "not_yet_visible");
  CHECK(to_string(BlockMiss::evicted) == "evicted");
  CHECK(to_string(BlockMiss::prefix_missing) == "prefix_missing");
}

TEST_CASE("random use of a small pool: the blocks are those of a plain list in order of use") {
  constexpr std::size_t room = 20;
  ModelledPool pool(with_room_for(room));
  std::vector<Key> list;  // least recently used first
  const auto use = [&](const Key& key) {
    const auto found = std::find(list.begin(), list.end(), key);
    if (found != list.end()) std::rotate(found, found + 1, list.end());
    return found != list.end();
  };
  Random random(3);
  for (int step = 0; step < 3000; ++step) {
    const std::vector<Key> keys =
        chain("chain " + std::to_string(random.below(12)), 1 + static_cast<int>(random.below(5)));
    std::size_t prefix = 0;
    while (prefix < keys.size() && std::find(list.begin(), list.end(), keys[prefix]) != list.end()) ++prefix;
    REQUIRE(look(pool, keys, step).blocks == static_cast<int>(prefix));
    for (std::size_t i = prefix; i-- > 0;) use(keys[i]);
    if (random.below(3) == 0) continue;
    store(pool, keys, step, step);
    std::vector<Key> fresh;
    for (std::size_t i = keys.size(); i-- > 0;)
      if (!use(keys[i])) fresh.push_back(keys[i]);
    for (const Key& key : fresh) {
      if (list.size() == room) list.erase(list.begin());
      list.push_back(key);
    }
  }
  CHECK(pool.stats().evicted > 500);
  check_sums(pool);
}
