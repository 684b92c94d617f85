// Clients that put, get and remove at random while owners evict and clean their files: for SUPERNODE_STRESS_SECONDS
// (3 by default) in all.
#include <cstdlib>
#include <map>

#include "runtime/core/clock.hpp"
#include "tests/memory_pool/pool_fixture.hpp"

using namespace supernode;
using namespace supernode::test;
using namespace supernode::pool;

namespace {

constexpr std::uint64_t shared_keys = 600, own_keys = 200;

double stress_seconds() {
  const char* text = std::getenv("SUPERNODE_STRESS_SECONDS");
  return text ? std::atof(text) : 3;
}

void check_owner(const OwnerStats& stats) {
  CHECK(stats.live <= stats.reserved);
  CHECK(stats.reserved <= stats.high_watermark);
  CHECK(stats.high_watermark <= stats.capacity);
}

/// One client at work in a namespace that all write, and in one of its own, of which it knows the newest version.
class Worker {
 public:
  explicit Worker(Pool& pool)
      : pool_(pool),
        shared_(pool, "shared"),
        own_(pool, "own " + std::to_string(world().rank())),
        draw_(23, static_cast<std::uint64_t>(world().rank())),
        buffer_(40000) {}

  void turn() {
    ++turns_;
    const double kind = draw_.uniform();
    const std::size_t bytes = 24 + draw_.below(draw_.uniform() < 0.1 ? 39000 : 6000);
    if (draw_.uniform() < 0.5)
      use_own(kind, bytes);
    else
      use_shared(kind, bytes);
    if (turns_ % 50 == 0) {
      const int owner = pool_.owners()[draw_.below(pool_.owners().size())];
      const auto stats = pool_.fetch_stats(owner);
      CHECK(stats.has_value());
      if (stats) check_owner(*stats);
    }
  }

  void finish() {
    CHECK(shared_.drain(60) == 0);
    for (const auto& [number, version] : newest_) check_own(number);
    for (const Client* client : {&shared_, &own_}) {
      const ClientStats& stats = client->stats();
      CHECK(stats.gets.hits + stats.gets.misses() == stats.gets.asked);
      CHECK(stats.lookups.hits + stats.lookups.misses() == stats.lookups.asked);
      CHECK(stats.gets.hits > 0);
      gets_ += stats.gets.asked;
      hits_ += stats.gets.hits;
      for (const std::uint64_t count : stats.stores) stores_ += count;
    }
  }

  std::uint64_t gets_ = 0, hits_ = 0, stores_ = 0, turns_ = 0;

 private:
  std::uint64_t next_version() { return static_cast<std::uint64_t>(world().rank()) << 40 | ++version_; }

  void use_shared(double kind, std::size_t bytes) {
    const Key key = key_number(draw_.below(shared_keys));
    if (kind < 0.35) {
      const PutMode mode = draw_.uniform() < 0.5 ? PutMode::keep : PutMode::replace;
      const Status status = shared_.put(key, make_payload(key, next_version(), bytes), mode);
      CHECK((status == Status::stored || status == Status::already_there || status == Status::full));
    } else if (kind < 0.45) {
      shared_.store_async(key, make_payload(key, next_version(), bytes));
    } else if (kind < 0.52) {
      const Status status = shared_.remove(key);
      CHECK((status == Status::removed || status == Status::not_there));
    } else if (kind < 0.6) {
      const std::vector<Key> keys{key, key_number(draw_.below(shared_keys))};
      for (const Found& found : shared_.lookup(keys)) CHECK(found.reason != MissReason::owner_down);
    } else {
      const Found found = shared_.get(key, buffer_);
      CHECK(found.reason != MissReason::owner_down);
      if (found.hit()) CHECK(check_payload(key, std::span(buffer_).first(found.length)) > 0);
    }
  }

  void use_own(double kind, std::size_t bytes) {
    const std::uint64_t number = draw_.below(own_keys);
    const Key key = key_number(number);
    if (kind < 0.4) {
      const std::uint64_t version = next_version();
      const Status status = own_.put(key, make_payload(key, version, bytes), PutMode::replace);
      CHECK((status == Status::stored || status == Status::full));
      if (status == Status::stored) newest_[number] = version;
    } else if (kind < 0.48) {
      const Status status = own_.remove(key);
      CHECK((status == Status::removed || status == Status::not_there));
      newest_[number] = 0;
    } else {
      check_own(number);
    }
  }

  /// The newest version, or nothing: evicted, or forgotten by the files. Never an older one, never what was removed.
  void check_own(std::uint64_t number) {
    const Key key = key_number(number);
    const Found found = own_.get(key, buffer_);
    CHECK(found.reason != MissReason::owner_down);
    CHECK(found.reason != MissReason::torn);
    if (found.hit())
      CHECK(check_payload(key, std::span(buffer_).first(found.length)) == static_cast<long long>(newest_[number]));
  }

  Pool& pool_;
  Client shared_, own_;
  Random draw_;
  std::vector<std::byte> buffer_;
  std::map<std::uint64_t, std::uint64_t> newest_;
  std::uint64_t version_ = 0;
};

}  // namespace

TEST_CASE("random work on a full pool returns no wrong byte, and loses none") {
  const int owners = std::max(1, world().size() / 3);
  for (const std::string transport : {"auto", "rma"}) {
    const Folder folder;
    PoolConfig config = small_pool(transport);
    config.capacity = {2 << 20};
    config.evict_above = 0.95;
    config.evict_ratio = 0.01;
    config.directory = folder.text();
    config.directory_limit = {6 << 20};
    config.directory_segment = {512 << 10};
    config.deadline = 60;
    std::uint64_t done[4] = {};
    with_pool(
        config, {owners, world().size() == 1},
        [&](Pool& pool) {
          Worker worker(pool);
          const double end = wall_now().value + stress_seconds() / 2;
          // Enough turns, however slow the build, to fill the files.
          constexpr std::uint64_t least_turns = 4000;
          while (wall_now().value < end || worker.turns_ < least_turns) worker.turn();
          worker.finish();
          done[0] = worker.turns_, done[1] = worker.gets_, done[2] = worker.hits_, done[3] = worker.stores_;
        },
        [&](Pool& pool) {
          meet(pool);
          OwnerStats stats;
          if (pool.is_owner()) {
            CHECK(core_of(pool).shard->consistent());
            stats = pool.owner_stats();
            check_owner(stats);
            CHECK(stats.writing == 0);
            CHECK(stats.evictions > 0);
            CHECK(stats.files.cleanings > 0);
            CHECK(stats.files.corrupt == 0);
            CHECK(stats.files.write_errors == 0);
            CHECK(static_cast<double>(stats.high_watermark) > 0.9 * static_cast<double>(stats.capacity));
            CHECK(stats.files.bytes <= config.directory_limit.value);
          }
          const auto total = [](std::uint64_t count) { return world().sum(static_cast<long long>(count)); };
          const long long turns = total(done[0]), gets = total(done[1]), hits = total(done[2]), stores = total(done[3]),
                          evictions = total(stats.evictions), cleanings = total(stats.files.cleanings);
          if (world().rank() == 0)
            std::printf("%s: %lld turns, %lld gets, %lld hits, %lld stores, %lld evictions, %lld cleanings\n",
                        transport.c_str(), turns, gets, hits, stores, evictions, cleanings);
          // Nothing is left when everything has been deleted.
          meet(pool);
          if (world().rank() == 0) {
            CHECK(pool.delete_namespace("shared") == Status::removed);
            for (int rank = 0; rank < world().size(); ++rank) pool.delete_namespace("own " + std::to_string(rank));
          }
          meet(pool);
          if (!pool.is_owner()) return;
          CHECK(core_of(pool).shard->consistent());
          stats = pool.owner_stats();
          CHECK(stats.live + stats.reserved + stats.entries + stats.tombstones + stats.writing == 0);
          CHECK(stats.files.records == 0);
        });
  }
}
