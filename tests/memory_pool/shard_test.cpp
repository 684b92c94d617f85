// What an owner does with requests, without messages: a window in plain memory, a client played by the test.
#include "memory_pool/owner/shard.hpp"

#include <algorithm>

#include "tests/memory_pool/payload.hpp"
#include "tests/support/catch.hpp"

using namespace supernode;
using namespace supernode::pool;
using namespace supernode::pool::internal;
using test::key_number;

namespace {

/// A shard with its memory, and the client's half of the protocol on it.
struct Bench {
  explicit Bench(const PoolConfig& configuration)
      : config(configuration),
        layout(layout_of(config)),
        memory((layout.total_bytes + sizeof(Bucket)) / sizeof(Bucket)),
        window(std::as_writable_bytes(std::span(memory)).first(layout.total_bytes)),
        shard(config, window, 7) {}

  /// Serves a request that is answered at once.
  template <class Body>
  typename Body::Reply serve(const Body& request) {
    return std::get<typename Body::Reply>(std::get<Reply>(shard.serve(request, now)));
  }
  Allocated allocate(const Key& key, NamespaceId name_space, std::uint64_t length, PutMode mode = PutMode::keep) {
    return serve(Allocate{key, name_space, mode, length});
  }
  Status remove(const Key& key, NamespaceId name_space) { return serve(Remove{key, name_space}).status; }
  Status create(NamespaceId name_space, std::uint64_t quota, NamespaceKind kind = NamespaceKind::evictable) {
    return serve(CreateNamespace{name_space, kind, quota, "namespace " + std::to_string(name_space)}).status;
  }
  Published publish(std::uint64_t ticket, std::uint64_t checksum, Verification verification = Verification::none) {
    return serve(Publish{ticket, checksum, verification});
  }
  Status put(const Key& key, std::span<const std::byte> data, NamespaceId name_space = 1,
             PutMode mode = PutMode::keep) {
    const Allocated block = allocate(key, name_space, data.size(), mode);
    if (block.status != Status::stored) return block.status;
    std::copy(data.begin(), data.end(), window.begin() + static_cast<long>(layout.payload_offset + block.offset));
    return publish(block.ticket, checksum_of(data)).status;
  }
  Status put(std::uint64_t number, std::size_t bytes, NamespaceId name_space = 1) {
    return put(key_number(number), test::make_payload(key_number(number), 0, bytes), name_space);
  }
  MissReason get(const Key& key, NamespaceId name_space = 1) {
    const BucketFinding found = find_in(memory[bucket_of(key, layout.buckets)], key, name_space);
    if (found.reason != MissReason::none) return found.reason;
    const auto data = window.subspan(layout.payload_offset + found.entry.offset, found.entry.length);
    return checksum_of(data) == found.entry.checksum && test::check_payload(key, data) >= 0 ? MissReason::none
                                                                                            : MissReason::torn;
  }
  MissReason get(std::uint64_t number, NamespaceId name_space = 1) { return get(key_number(number), name_space); }

  PoolConfig config;
  Layout layout;
  std::vector<Bucket> memory;
  std::span<std::byte> window;
  Shard shard;
  double now = 0;
};

PoolConfig small() {
  PoolConfig config;
  config.capacity = {100 * 256};
  config.granule = {256};
  config.index_slots_per_granule = 8;
  return config;
}

}  // namespace

TEST_CASE("a block is invisible until it is published") {
  Bench bench(small());
  const auto data = test::make_payload(key_number(1), 0, 600);
  const Allocated block = bench.allocate(key_number(1), 1, data.size());
  CHECK(block.status == Status::stored);
  CHECK(bench.get(1) == MissReason::never_stored);
  CHECK(bench.shard.stats().writing == 1);
  CHECK(bench.shard.stats().reserved == 768);
  CHECK(bench.shard.stats().live == 0);
  // A second writer is told that somebody is at it.
  CHECK(bench.allocate(key_number(1), 1, 600).status == Status::already_there);
  // The bytes have not come: an owner that is asked to look says so.
  CHECK(bench.publish(block.ticket, checksum_of(data), Verification::checksum).arrival == Arrival::incomplete);
  std::copy(data.begin(), data.end(),
            bench.window.begin() + static_cast<long>(bench.layout.payload_offset + block.offset));
  const Published published = bench.publish(block.ticket, checksum_of(data), Verification::checksum);
  CHECK(published.arrival == Arrival::complete);
  CHECK(published.status == Status::stored);
  CHECK(bench.get(1) == MissReason::none);
  CHECK(bench.shard.stats().live == 600);
  CHECK(bench.publish(block.ticket, 0).status == Status::not_there);
  CHECK(bench.put(1, 600) == Status::already_there);
  CHECK(bench.shard.consistent());
}

TEST_CASE("writers that never publish lose their block when the lease ends") {
  Bench bench(small());
  const Allocated block = bench.allocate(key_number(1), 1, 600);
  bench.now = bench.config.lease - 1;
  bench.shard.expire(bench.now);
  CHECK(bench.shard.stats().writing == 1);
  bench.now = bench.config.lease * 2;
  bench.shard.expire(bench.now);
  CHECK(bench.shard.stats().writing == 0);
  CHECK(bench.shard.stats().expired == 1);
  CHECK(bench.shard.stats().reserved == 0);
  CHECK(bench.publish(block.ticket, 0).status == Status::not_there);
  CHECK(bench.put(1, 600) == Status::stored);
}

TEST_CASE("above the watermark a round of the least recently used is evicted") {
  Bench bench(small());  // 100 granules: evict above 90, 5 a round
  for (std::uint64_t i = 0; i < 90; ++i) CHECK(bench.put(i, 200) == Status::stored);
  CHECK(bench.shard.stats().evictions == 0);
  const std::vector<Key> keys{key_number(0), key_number(2), key_number(77777)};
  const Served touched = bench.shard.serve(Touch{1, keys}, 0);
  CHECK(std::holds_alternative<std::monostate>(touched));  // it has no reply
  CHECK(bench.put(90, 200) == Status::stored);
  CHECK(bench.shard.stats().evictions == 5);
  CHECK(bench.shard.stats().evicted_bytes == 1000);
  CHECK(bench.shard.stats().tombstones == 5);
  for (const std::uint64_t gone : {1, 3, 4, 5, 6}) CHECK(bench.get(gone) == MissReason::evicted);
  for (const std::uint64_t kept : {0, 2, 7, 8, 89, 90}) CHECK(bench.get(kept) == MissReason::none);
  CHECK(bench.shard.stats().high_watermark == 90 * 256);
  CHECK(bench.shard.consistent());
}

TEST_CASE("what cannot fit is refused, with the reason") {
  Bench bench(small());
  CHECK(bench.put(1, 100 * 256 + 1) == Status::too_large);
  CHECK(bench.put(1, 100 * 256) == Status::stored);
  CHECK(bench.put(2, 100 * 256) == Status::stored);
  CHECK(bench.get(1) == MissReason::evicted);
  // Blocks that are being written cannot be evicted.
  CHECK(bench.allocate(key_number(3), 1, 60 * 256).status == Status::stored);
  CHECK(bench.allocate(key_number(4), 1, 60 * 256).status == Status::full);
  CHECK(bench.shard.consistent());
}

TEST_CASE("a namespace beyond its quota evicts its own blocks only") {
  PoolConfig config = small();
  config.namespace_quota = {20 * 256};
  Bench bench(config);
  for (std::uint64_t i = 0; i < 10; ++i) CHECK(bench.put(i, 200, 1) == Status::stored);
  for (std::uint64_t i = 0; i < 50; ++i) CHECK(bench.put(i, 200, 2) == Status::stored);
  for (std::uint64_t i = 0; i < 10; ++i) CHECK(bench.get(i, 1) == MissReason::none);
  CHECK(bench.get(29, 2) == MissReason::evicted);
  CHECK(bench.get(30, 2) == MissReason::none);
  CHECK(bench.get(49, 1) == MissReason::other_namespace);
  CHECK(bench.put(1000, 21 * 256, 2) == Status::quota);
  CHECK(bench.shard.consistent());
}

TEST_CASE("what is promised to a namespace is not evicted by others, and lent as long as it is not used") {
  Bench bench(small());  // 100 granules, 90 below the watermark
  const auto create = [&](NamespaceId name_space, std::uint64_t granules,
                          NamespaceKind kind = NamespaceKind::evictable) {
    return bench.create(name_space, granules * 256, kind);
  };
  CHECK(create(1, 30) == Status::stored);
  CHECK(create(1, 20) == Status::already_there);
  CHECK(create(2, 61) == Status::quota);  // 91 promised
  CHECK(create(2, 40) == Status::stored);
  CHECK(bench.shard.stats().promised == 70 * 256);
  CHECK(bench.shard.stats().namespaces == 2);

  for (std::uint64_t i = 0; i < 20; ++i) CHECK(bench.put(i, 200, 1) == Status::stored);
  // Namespace 3 has no promise: it may have what nobody uses, and evicts only itself.
  for (std::uint64_t i = 0; i < 300; ++i) CHECK(bench.put(i, 200, 3) == Status::stored);
  for (std::uint64_t i = 0; i < 20; ++i) CHECK(bench.get(i, 1) == MissReason::none);
  CHECK(bench.get(250, 3) == MissReason::none);
  // The promised room is there when it is wanted, at the cost of 3, and no more than promised.
  for (std::uint64_t i = 0; i < 100; ++i) CHECK(bench.put(i, 200, 2) == Status::stored);
  CHECK(bench.get(60, 2) == MissReason::none);
  CHECK(bench.get(59, 2) == MissReason::evicted);
  for (std::uint64_t i = 0; i < 20; ++i) CHECK(bench.get(i, 1) == MissReason::none);
  CHECK(bench.put(1000, 41 * 256, 2) == Status::quota);
  CHECK(bench.put(1000, 71 * 256, 3) == Status::full);  // 20 + 40 granules are others'
  CHECK(bench.shard.consistent());

  // A whole namespace does not evict itself either.
  CHECK(create(4, 10, NamespaceKind::whole) == Status::stored);
  for (std::uint64_t i = 0; i < 10; ++i) CHECK(bench.put(i, 200, 4) == Status::stored);
  CHECK(bench.put(10, 200, 4) == Status::quota);
  for (std::uint64_t i = 0; i < 10; ++i) CHECK(bench.get(i, 4) == MissReason::none);

  const auto delete_namespace = [&] { return bench.serve(DeleteNamespace{2}).status; };
  const Allocated open = bench.allocate(key_number(5000), 2, 100, PutMode::replace);
  CHECK(open.status == Status::stored);
  CHECK(delete_namespace() == Status::removed);
  CHECK(bench.publish(open.ticket, 0).status == Status::not_there);
  CHECK(delete_namespace() == Status::not_there);
  CHECK(bench.get(60, 2) != MissReason::none);
  CHECK(bench.shard.stats().promised == 40 * 256);
  CHECK(bench.shard.consistent());
}

TEST_CASE("a bucket that promised namespaces have filled refuses others") {
  PoolConfig config = small();
  config.index_slots_per_granule = 1;
  config.capacity = {16 * 256};  // one bucket
  config.evict_above = 1;
  Bench bench(config);
  CHECK(bench.create(1, 15 * 256) == Status::stored);
  for (std::uint64_t i = 0; i < 15; ++i) CHECK(bench.put(i, 100, 1) == Status::stored);
  CHECK(bench.put(100, 100, 2) == Status::stored);
  CHECK(bench.put(101, 100, 2) == Status::stored);  // in the place of 100
  CHECK(bench.get(100, 2) != MissReason::none);
  for (std::uint64_t i = 0; i < 15; ++i) CHECK(bench.get(i, 1) != MissReason::never_stored);
  CHECK(bench.shard.consistent());
}

TEST_CASE("where namespaces are closed, only created ones store") {
  PoolConfig config = small();
  config.open_namespaces = false;
  Bench bench(config);
  CHECK(bench.put(1, 100, 1) == Status::no_namespace);
  CHECK(bench.create(1, 0) == Status::stored);
  CHECK(bench.put(1, 100, 1) == Status::stored);
}

TEST_CASE("replacing swaps the bytes and frees the old ones") {
  Bench bench(small());
  const Key key = key_number(1);
  CHECK(bench.put(key, test::make_payload(key, 1, 1000)) == Status::stored);
  CHECK(bench.put(key, test::make_payload(key, 2, 300), 1, PutMode::replace) == Status::stored);
  CHECK(bench.get(key) == MissReason::none);
  CHECK(bench.shard.stats().live == 300);
  CHECK(bench.shard.stats().reserved == 512);
  CHECK(bench.shard.stats().entries == 1);
  CHECK(bench.remove(key, 1) == Status::removed);
  CHECK(bench.remove(key, 1) == Status::not_there);
  CHECK(bench.get(key) == MissReason::never_stored);
  CHECK(bench.shard.stats().reserved == 0);
  CHECK(bench.shard.consistent());
}

TEST_CASE("random requests leave a consistent shard that never serves a wrong byte") {
  PoolConfig config = small();
  config.index_slots_per_granule = 1;  // 7 buckets: conflicts happen
  Bench bench(config);
  Random draw(3);
  for (int turn = 0; turn < 20000; ++turn) {
    const std::uint64_t number = draw.below(300);
    const auto name_space = static_cast<NamespaceId>(1 + draw.below(2));
    const double kind = draw.uniform();
    bench.now += 0.1;
    if (kind < 0.5) {
      const Status status = bench.put(number, 24 + draw.below(draw.uniform() < 0.02 ? 8000 : 230), name_space);
      CHECK((status == Status::stored || status == Status::already_there || status == Status::full));
      if (status == Status::stored) CHECK(bench.get(number, name_space) == MissReason::none);
    } else if (kind < 0.8) {
      CHECK(bench.get(number, name_space) != MissReason::torn);
    } else if (kind < 0.9) {
      bench.remove(key_number(number), name_space);
      CHECK(bench.get(number, name_space) != MissReason::none);
    } else if (kind < 0.92) {
      bench.allocate(key_number(number), name_space, 500);  // and is never heard of again
    } else {
      bench.shard.expire(bench.now);
    }
    if (turn % 100 == 0) CHECK(bench.shard.consistent());
    const OwnerStats stats = bench.shard.stats();
    CHECK(stats.live <= stats.reserved);
    CHECK(stats.reserved <= stats.high_watermark);
    CHECK(stats.high_watermark <= stats.capacity);
  }
  CHECK(bench.shard.stats().evictions > 0);
  CHECK(bench.shard.stats().conflicts > 0);
  CHECK(bench.shard.stats().expired > 0);
}
