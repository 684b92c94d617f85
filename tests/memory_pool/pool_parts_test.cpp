// The pure parts of the pool: keys, ring, allocator, index, eviction order, configuration.
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>

#include <unistd.h>

#include "memory_pool/config.hpp"
#include "memory_pool/format/checksum.hpp"
#include "memory_pool/format/copy.hpp"
#include "memory_pool/owner/allocator.hpp"
#include "memory_pool/owner/bucket_table.hpp"
#include "memory_pool/owner/eviction.hpp"
#include "memory_pool/owner/layout.hpp"
#include "memory_pool/owner/namespaces.hpp"
#include "memory_pool/ring.hpp"
#include "memory_pool/status.hpp"
#include "runtime/core/error.hpp"
#include "tests/memory_pool/payload.hpp"
#include "tests/support/catch.hpp"

using namespace supernode;
using namespace supernode::pool;
using namespace supernode::pool::internal;
using Catch::Matchers::Contains;
using test::key_number;

TEST_CASE("block keys name their whole prefix, the model and the tenant") {
  std::vector<std::int32_t> tokens(10);
  for (std::size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<std::int32_t>(i);
  const Key root = chain_root("tenant", "model", 4);
  const std::vector<Key> keys = chain_keys(root, tokens, 4);
  CHECK(keys.size() == 2);  // the tail of two tokens has none
  CHECK(chain_keys(root, std::span(tokens).first(4), 4) == std::vector<Key>{keys[0]});
  CHECK(chain_keys(root, std::span(tokens).first(3), 4).empty());
  CHECK(chain_next(keys[0], std::span(tokens).subspan(4, 4)) == keys[1]);

  auto other = tokens;
  other[0] = 99;  // the first token changes every key
  const std::vector<Key> changed = chain_keys(root, other, 4);
  CHECK(changed[0] != keys[0]);
  CHECK(changed[1] != keys[1]);
  CHECK(chain_root("tenant", "model", 8) != root);
  CHECK(chain_root("tenant2", "model", 4) != root);
  CHECK(chain_root("tenantm", "odel", 4) != root);
  CHECK(namespace_id("a") != namespace_id("b"));
}

TEST_CASE("a copy with its checksum is the copy and the checksum, for every length and place") {
  std::vector<std::byte> from = test::make_payload(key_number(1), 1, (1u << 20) + 4096);
  std::vector<std::byte> memory(from.size() + 4096);
  for (const std::size_t bytes : {std::size_t{0}, std::size_t{1}, std::size_t{4096}, streamed_bytes - 1, streamed_bytes,
                                  streamed_bytes + 1, streamed_bytes + 4095, std::size_t{1} << 20})
    for (const std::size_t shift : {0, 1, 16, 40}) {
      std::fill(memory.begin(), memory.end(), std::byte{});
      std::byte* to = memory.data() + (64 - reinterpret_cast<std::uintptr_t>(memory.data()) % 64) + shift / 16 * 16;
      const std::span<const std::byte> source = std::span(from).subspan(shift, bytes);
      CHECK(copy_with_checksum(to, source) == checksum_of(source));
      CHECK(std::equal(source.begin(), source.end(), to));
      CHECK(to[bytes] == std::byte{});
    }
}

TEST_CASE("the ring spreads keys evenly and moves only those of a dropped owner") {
  constexpr int owners = 5;
  constexpr std::uint64_t keys = 20000;
  Ring ring({3, 0, 7, 4, 9}, 256);
  std::map<int, int> share;
  for (std::uint64_t i = 0; i < keys; ++i) ++share[ring.owner_of(key_number(i))];
  CHECK(share.size() == owners);
  for (const auto& [owner, count] : share) CHECK(std::abs(count - static_cast<int>(keys) / owners) < 1200);

  const Ring before = ring;
  ring.drop(7);
  CHECK(ring.version() == 2);
  CHECK(ring.live_count() == 4);
  CHECK_FALSE(ring.is_live(7));
  std::map<int, int> moved_to;
  for (std::uint64_t i = 0; i < keys; ++i) {
    const Key key = key_number(i);
    CHECK(ring.home_of(key) == before.owner_of(key));
    if (before.owner_of(key) == 7)
      ++moved_to[ring.owner_of(key)];
    else if (ring.owner_of(key) != before.owner_of(key))
      FAIL("a key of a live owner moved");
  }
  CHECK(moved_to.size() == 4);
  CHECK(moved_to.count(7) == 0);
  ring.drop(7);
  ring.drop(8);  // no owner
  CHECK(ring.version() == 2);
  ring.restore(7);
  CHECK(ring.version() == 3);
  for (std::uint64_t i = 0; i < 1000; ++i) CHECK(ring.owner_of(key_number(i)) == before.owner_of(key_number(i)));
  for (const int owner : {0, 3, 4, 7, 9}) ring.drop(owner);
  CHECK(ring.owner_of(key_number(0)) == -1);
}

TEST_CASE("a ring of nobody, or of the same owner twice, is refused") {
  CHECK_THROWS_WITH(Ring({}, 8), Contains("at least one owner"));
  CHECK_THROWS_WITH(Ring({1, 2, 1}, 8), Contains("1 is listed twice"));
  CHECK_THROWS_WITH(Ring({-1}, 8), Contains("not a rank"));
  CHECK_THROWS_AS(Ring({1}, 0), UsageError);
}

TEST_CASE("the allocator tiles its area through any order of calls") {
  for (const std::uint64_t granules : {1, 7, 64, 1000, 4096}) {
    Allocator space(granules * 64, 64);
    Random draw(granules);
    std::map<std::uint64_t, std::uint64_t> blocks;  // offset -> size
    std::uint64_t reserved = 0;
    for (int turn = 0; turn < 4000; ++turn) {
      if (blocks.empty() || draw.uniform() < 0.55) {
        const std::uint64_t bytes = draw.below(draw.uniform() < 0.1 ? granules * 64 + 100 : 1000);
        const auto offset = space.allocate(bytes);
        if (!offset) {
          CHECK(space.largest_free() / 2 < std::max<std::uint64_t>(bytes, 1));  // within a size class
          continue;
        }
        const std::uint64_t size = space.size_at(*offset);
        CHECK(size == space.rounded(bytes));
        CHECK(*offset + size <= space.capacity());
        const auto after = blocks.lower_bound(*offset);
        CHECK((after == blocks.end() || *offset + size <= after->first));
        CHECK((after == blocks.begin() || std::prev(after)->first + std::prev(after)->second <= *offset));
        blocks[*offset] = size;
        reserved += size;
      } else {
        auto victim = std::next(blocks.begin(), static_cast<long>(draw.below(blocks.size())));
        space.free(victim->first);
        reserved -= victim->second;
        blocks.erase(victim);
      }
      CHECK(space.reserved() == reserved);
      CHECK(space.high_watermark() >= reserved);
      if (turn % 64 == 0) CHECK(space.consistent());
    }
    for (const auto& [offset, size] : blocks) space.free(offset);
    CHECK(space.consistent());
    CHECK(space.reserved() == 0);
    CHECK(space.allocate(granules * 64));  // all of it is one block again
    CHECK_FALSE(space.allocate(1));
  }
}

TEST_CASE("blocks of one size use the area to the last granule, whatever was freed before") {
  Allocator space(960 * 64, 64);
  std::vector<std::uint64_t> blocks;
  while (const auto offset = space.allocate(3 * 64)) blocks.push_back(*offset);
  CHECK(blocks.size() == 320);
  Random draw(1);
  for (int round = 0; round < 50; ++round) {
    for (int i = 0; i < 100; ++i) {
      std::swap(blocks[draw.below(blocks.size())], blocks.back());
      space.free(blocks.back());
      blocks.pop_back();
    }
    for (int i = 0; i < 100; ++i) {
      const auto offset = space.allocate(3 * 64);
      REQUIRE(offset);
      blocks.push_back(*offset);
    }
  }
  CHECK(space.reserved() == space.capacity());
}

TEST_CASE("mixed sizes keep 85 % of the area in use") {
  // Random sizes of 1-64 granules, random frees, always refilled: what fragmentation leaves unusable is bounded.
  Allocator space(16384 * 64, 64);
  Random draw(7);
  std::vector<std::uint64_t> blocks;
  double worst = 1;
  for (int turn = 0; turn < 40000; ++turn) {
    const auto offset = space.allocate((1 + draw.below(64)) * 64);
    if (offset) {
      blocks.push_back(*offset);
      continue;
    }
    if (turn > 2000)
      worst = std::min(worst, static_cast<double>(space.reserved()) / static_cast<double>(space.capacity()));
    for (int i = 0; i < 4; ++i) {
      std::swap(blocks[draw.below(blocks.size())], blocks.back());
      space.free(blocks.back());
      blocks.pop_back();
    }
  }
  CHECK(worst > 0.85);
}

TEST_CASE("a copy of a bucket tells why a key is missing") {
  std::vector<Bucket> memory(8);
  BucketTable table(memory);
  const Key key = key_number(1);
  const auto ask = [&](NamespaceId name_space) {
    return find_in(memory[bucket_of(key, memory.size())], key, name_space);
  };
  CHECK(ask(5).reason == MissReason::never_stored);

  Entry entry;
  entry.key = key;
  entry.name_space = 5;
  entry.length = 10;
  const auto slot = table.place_for(key, 5);
  REQUIRE(slot);
  CHECK(table.write(*slot, entry) == 1);
  CHECK(table.find(key, 5) == slot);
  CHECK_FALSE(table.find(key, 6));
  CHECK(ask(5).reason == MissReason::none);
  CHECK(ask(5).entry.length == 10);
  CHECK(ask(6).reason == MissReason::other_namespace);
  CHECK(table.live() == 1);

  const auto other = table.place_for(key, 6);
  REQUIRE(other);
  CHECK(other != slot);
  entry.name_space = 6;
  entry.length = 20;
  table.write(*other, entry);
  CHECK(ask(5).entry.length == 10);
  CHECK(ask(6).entry.length == 20);

  table.mark_evicted(*slot);
  CHECK(ask(5).reason == MissReason::evicted);
  CHECK(ask(6).reason == MissReason::none);
  CHECK(table.tombstones() == 1);
  CHECK(table.place_for(key, 5) == slot);
  table.clear(*other);
  CHECK(ask(6).reason == MissReason::never_stored);
  CHECK(table.live() == 0);
}

TEST_CASE("an entry caught in the middle of a write is torn, never wrong") {
  std::vector<Bucket> memory(1);
  BucketTable table(memory);
  Entry entry;
  entry.key = key_number(1);
  entry.name_space = 1;
  entry.offset = 4096;
  entry.length = 77;
  entry.checksum = 0x1234;
  table.write(*table.place_for(entry.key, 1), entry);
  const Bucket old = memory[0];
  entry.offset = 8192;
  entry.checksum = 0x5678;
  table.write(*table.place_for(entry.key, 1), entry);
  // Every mixture of old and new words is refused or one of the two.
  for (std::size_t words = 0; words <= sizeof(Entry) / 8; ++words) {
    Bucket mixed = old;
    std::memcpy(&mixed, &memory[0], words * 8);
    const BucketFinding found = find_in(mixed, entry.key, 1);
    if (found.reason == MissReason::none)
      CHECK(((found.entry.offset == 4096 && found.entry.checksum == 0x1234) ||
             (found.entry.offset == 8192 && found.entry.checksum == 0x5678)));
    else
      CHECK(found.reason == MissReason::torn);
  }
}

TEST_CASE("a full bucket gives up its tombstones first, the oldest of them") {
  std::vector<Bucket> memory(1);
  BucketTable table(memory);
  for (std::uint64_t i = 0; i < entries_per_bucket; ++i) {
    Entry entry;
    entry.key = key_number(i);
    entry.name_space = 1;
    const auto slot = table.place_for(entry.key, 1);
    REQUIRE(slot);
    table.write(*slot, entry);
  }
  CHECK_FALSE(table.place_for(key_number(100), 1));
  table.mark_evicted(*table.find(key_number(9), 1));
  table.mark_evicted(*table.find(key_number(4), 1));
  const auto slot = table.place_for(key_number(100), 1);
  REQUIRE(slot);
  CHECK(table.at(*slot).key == key_number(9));
}

TEST_CASE("buckets fill evenly") {
  constexpr std::uint64_t buckets = 1000, keys = 8000;
  std::vector<int> load(buckets);
  for (std::uint64_t i = 0; i < keys; ++i) ++load[bucket_of(key_number(i), buckets)];
  // 8 a bucket on average: beyond 16 with a probability of 0.4 %.
  CHECK(std::count_if(load.begin(), load.end(), [](int n) { return n > 16; }) < 20);
  CHECK(std::count(load.begin(), load.end(), 0) < 10);
}

TEST_CASE("the least recently used is evicted, pins and namespaces respected") {
  EvictionOrder order(16);
  CHECK_FALSE(order.victim());
  for (EvictionOrder::Slot slot = 0; slot < 6; ++slot) order.insert(slot, slot % 2 + 1);
  CHECK(order.victim() == 0u);
  order.touch(0);
  CHECK(order.victim() == 1u);
  CHECK(order.victim(1) == 2u);
  CHECK_FALSE(order.victim(9));
  order.pin(1);
  order.pin(1);
  CHECK(order.victim() == 2u);
  CHECK(order.victim(2) == 3u);
  order.touch(1);  // pinned: stays out of the order
  order.unpin(1);
  CHECK(order.victim(2) == 3u);
  order.unpin(1);
  order.erase(2);
  order.erase(2);
  order.touch(2);
  std::vector<EvictionOrder::Slot> sequence;
  while (const auto victim = order.victim()) {
    sequence.push_back(*victim);
    order.erase(*victim);
  }
  CHECK(sequence == std::vector<EvictionOrder::Slot>{3, 4, 5, 0, 1});
}

TEST_CASE("the configuration has limits with names") {
  PoolConfig config;
  config.capacity = {1 << 20};
  CHECK(layout_of(config).capacity == 1 << 20);
  CHECK(window_bytes(config) >= (1 << 20) + (256 * 2 / 16) * sizeof(Bucket));
  CHECK(layout_of(config).payload_offset % 4096 == 0);
  config.granule = {3000};
  CHECK_THROWS_WITH(window_bytes(config), Contains("pool.granule is 3000"));
  config.granule = {4096};
  config.capacity = {100};
  CHECK_THROWS_WITH(window_bytes(config), Contains("pool.capacity of 100"));
  config.capacity = {std::uint64_t{1} << 50};
  CHECK_THROWS_WITH(window_bytes(config), Contains("too many granules"));

  OptionTable table("pool");
  PoolConfig parsed;
  describe(table, parsed);
  table.parse({{"--capacity", "8M", "--evict-above", "0.5"}, {{"SUPERNODE_POOL__GRANULE", "64K"}}, "", ""});
  CHECK(parsed.capacity.value == 8u << 20);
  CHECK(parsed.evict_above == 0.5);
  CHECK(parsed.granule.value == 65536);
  CHECK_THROWS_WITH(table.parse({{"--transport", "pigeon"}, {}, "", ""}), Contains("pigeon") && Contains("shared"));
  CHECK_THROWS_WITH(table.parse({{"--evict-above", "2"}, {}, "", ""}), Contains("evict"));
}

TEST_CASE("every status and reason has a word") {
  std::set<std::string_view> words;
  for (std::uint32_t i = 0; i < status_count; ++i) words.insert(to_string(static_cast<Status>(i)));
  CHECK(words.size() == status_count);
  words.clear();
  for (std::uint32_t i = 0; i < miss_reason_count; ++i) words.insert(to_string(static_cast<MissReason>(i)));
  CHECK(words.size() == miss_reason_count);
}

TEST_CASE("the file of namespaces gives back what was written, or says that it is damaged") {
  const std::filesystem::path folder =
      std::filesystem::temp_directory_path() / ("supernode-names-" + std::to_string(::getpid()));
  std::filesystem::create_directories(folder);
  CHECK(read_namespaces(folder).empty());
  const std::vector<NamespaceTerms> terms{{"plain", 5}, {"with 3 \n lines", 1ull << 60}, {"x", 0}};
  CHECK(write_namespaces(folder, {{"old", 1}}));
  CHECK(write_namespaces(folder, terms));
  CHECK(read_namespaces(folder) == terms);
  const std::filesystem::path path = folder / namespace_file_name;
  std::ifstream file(path, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  for (std::size_t at = 0; at < text.size(); ++at) {
    std::string damaged = text;
    damaged[at] = static_cast<char>(damaged[at] ^ 4);
    std::ofstream(path, std::ios::binary) << damaged;
    CHECK_THROWS_WITH(read_namespaces(folder), Contains("namespaces: damaged"));
    std::ofstream(path, std::ios::binary) << text.substr(0, at);
    CHECK_THROWS_AS(read_namespaces(folder), UsageError);
  }
  std::filesystem::remove_all(folder);
  CHECK_FALSE(write_namespaces(folder, terms));
}

TEST_CASE("two names with one number are not taken for one namespace") {
  Namespaces all({.room = 1000});
  CHECK(all.create(7, "one", 600, NamespaceKind::evictable) == Status::stored);
  CHECK(all.create(7, "two", 100, NamespaceKind::evictable) == Status::name_clash);
  CHECK(all.create(7, "one", 600, NamespaceKind::evictable) == Status::already_there);
  CHECK(all.create(8, "two", 500, NamespaceKind::evictable) == Status::quota);
  Namespaces after({.room = 1000});
  for (const NamespaceTerms& terms : all.lasting()) CHECK(after.restore(7, terms.name, terms.quota) == Status::stored);
  CHECK(after.promised() == 600);
  CHECK(after.create(7, "one", 600, NamespaceKind::evictable) == Status::stored);
  CHECK(after.create(7, "one", 600, NamespaceKind::evictable) == Status::already_there);
  CHECK(after.erase(7));
  CHECK(after.lasting().empty());
}
