// Prefixes of prompts: found in one round, loaded, stored once.
#include "memory_pool/context_cache.hpp"

#include "memory_pool/ring.hpp"
#include "tests/memory_pool/pool_fixture.hpp"

using namespace supernode;
using namespace supernode::test;
using namespace supernode::pool;

namespace {

constexpr int block_tokens = 16;
constexpr std::size_t block_bytes = 2000;

std::vector<std::int32_t> prompt(int length, std::int32_t seed) {
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(length));
  for (std::size_t i = 0; i < tokens.size(); ++i) tokens[i] = seed + static_cast<std::int32_t>(i);
  return tokens;
}

void store_all(ContextCache& cache, const std::vector<Key>& keys) {
  for (const Key& key : keys) CHECK(cache.store(key, make_payload(key, 0, block_bytes)));
  CHECK(cache.client().drain(30) == 0);
}

}  // namespace

TEST_CASE("a prompt finds the longest prefix that anybody has stored") {
  for (const std::string transport : {"auto", "rma"})
    for (const Roles& roles : all_roles())
      with_pool(small_pool(transport), roles, [&](Pool& pool) {
        Client client(pool, "tenant " + std::to_string(world().rank()));
        ContextCache cache(client, {"model 1", block_tokens, block_bytes});
        const auto tokens = prompt(100, 0);  // 6 blocks and a tail
        const auto keys = cache.keys(tokens);
        CHECK(keys.size() == 6);
        CHECK(cache.longest_prefix(tokens).blocks == 0);
        CHECK(cache.longest_prefix(tokens).reason == MissReason::never_stored);
        store_all(cache, {keys[0], keys[1], keys[2], keys[4]});
        const PrefixMatch match = cache.longest_prefix(tokens);
        CHECK(match.blocks == 3);
        CHECK(match.reason == MissReason::never_stored);
        CHECK(match.each.size() == 6);
        CHECK(match.each[4].hit());

        std::vector<std::vector<std::byte>> kv(4, std::vector<std::byte>(block_bytes));
        std::vector<std::span<std::byte>> destinations(kv.begin(), kv.end());
        const LoadResult loaded = cache.load(tokens, 1, destinations);  // blocks 1, 2, then 3 is not there
        CHECK(loaded.blocks == 2);
        CHECK(loaded.reason == MissReason::never_stored);
        CHECK(check_payload(keys[1], kv[0]) == 0);
        CHECK(check_payload(keys[2], kv[1]) == 0);
        CHECK(cache.load(tokens, 0, {}).blocks == 0);

        // The same start with another end shares its blocks; another start shares nothing.
        auto other = tokens;
        other[40] = -1;
        CHECK(cache.longest_prefix(other).blocks == 2);
        other[0] = -1;
        CHECK(cache.longest_prefix(other).blocks == 0);
        // By tokens and block number, and once only.
        CHECK(cache.store(tokens, 3, make_payload(keys[3], 0, block_bytes)));
        CHECK(cache.store(tokens, 3, make_payload(keys[3], 1, block_bytes)));
        CHECK(client.drain(30) == 0);
        CHECK(client.stats().stores[static_cast<std::size_t>(Status::already_there)] == 1);
        CHECK(cache.longest_prefix(tokens).blocks == 5);
        CHECK(cache.longest_prefix(std::span(tokens).first(15)).blocks == 0);
        CHECK(cache.longest_prefix(std::span(tokens).first(15)).reason == MissReason::none);

        // Another model, another block size: nothing to share.
        ContextCache newer(client, {"model 2", block_tokens, block_bytes});
        CHECK(newer.longest_prefix(tokens).blocks == 0);
        ContextCache longer(client, {"model 1", block_tokens, block_bytes + 8});
        CHECK(longer.longest_prefix(tokens).reason == MissReason::wrong_size);
        CHECK(longer.longest_prefix(tokens).blocks == 0);
      });
}

TEST_CASE("a whole prompt in the pool still leaves a token to compute") {
  with_pool(small_pool("auto"), {1, true}, [](Pool& pool) {
    Client client(pool);
    const ContextCache cache(client, {"model", block_tokens, block_bytes});
    CHECK(cache.usable_blocks(3, 48) == 2);
    CHECK(cache.usable_blocks(3, 49) == 3);
    CHECK(cache.usable_blocks(0, 48) == 0);
    CHECK(cache.usable_blocks(1, 16) == 0);
    CHECK(cache.usable_blocks(0, 0) == 0);
    CHECK_THROWS_AS(ContextCache(client, {"model", 0, block_bytes}), UsageError);
    CHECK_THROWS_AS(ContextCache(client, {"model", block_tokens, 0}), UsageError);
  });
}

TEST_CASE("under pressure the tail of a chain goes before its head") {
  PoolConfig config = small_pool("auto");
  config.evict_ratio = 0.01;
  with_pool(config, {1, world().size() == 1}, [](Pool& pool) {
    if (world().rank() != world().size() - 1) return;
    Client client(pool);
    ContextCache cache(client, {"model", block_tokens, block_bytes});
    const auto old_chain = cache.keys(prompt(30 * block_tokens, 0));
    store_all(cache, old_chain);
    CHECK(cache.longest_prefix(old_chain).blocks == 30);
    client.flush_touches();
    // Room for 115 blocks below the watermark: 100 more push out about 15 of the 30.
    for (std::int32_t other = 1; other <= 25; ++other)
      store_all(cache, cache.keys(prompt(4 * block_tokens, other * 100000)));
    const PrefixMatch match = cache.longest_prefix(old_chain);
    CHECK(match.blocks > 0);
    CHECK(match.blocks < 30);
    CHECK(match.reason == MissReason::evicted);
  });
}
