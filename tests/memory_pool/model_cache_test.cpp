// Models in the pool: read once, one copy, evicted as wholes.
#include "memory_pool/model_cache.hpp"

#include "memory_pool/owner/model_directory.hpp"
#include "runtime/core/error.hpp"
#include "tests/memory_pool/pool_fixture.hpp"

using namespace supernode;
using namespace supernode::test;
using namespace supernode::pool;

namespace {

/// Files whose bytes follow from their name; counts what is read.
class MadeFiles : public FileSource {
 public:
  explicit MadeFiles(std::map<std::string, std::uint64_t> sizes) : sizes_(std::move(sizes)) {}
  std::string place() const override { return "made"; }
  std::vector<std::string> names() const override {
    std::vector<std::string> names;
    for (const auto& [name, bytes] : sizes_) names.push_back(name);
    return names;
  }
  std::optional<std::uint64_t> size(const std::string& name) const override {
    const auto found = sizes_.find(name);
    return found == sizes_.end() ? std::nullopt : std::optional(found->second);
  }
  void read(const std::string& name, std::uint64_t offset, std::span<std::byte> out) override {
    if (bytes_read + out.size() > fail_after) throw EnvironmentError("made: cannot be read");
    bytes_read += out.size();
    for (std::size_t i = 0; i < out.size(); ++i) out[i] = byte(name, offset + i);
  }
  static std::byte byte(const std::string& name, std::uint64_t at) {
    return static_cast<std::byte>(mix64(at ^ std::hash<std::string>()(name)));
  }
  std::uint64_t bytes_read = 0, fail_after = ~std::uint64_t{0};

 private:
  std::map<std::string, std::uint64_t> sizes_;
};

MadeFiles model_files(const std::string& name, std::uint64_t bytes) {
  return MadeFiles({{name + " config", 10}, {name + " weights", bytes}, {name + " nothing", 0}});
}

bool is_intact(FileSource& model, const std::string& name, std::uint64_t offset, std::uint64_t bytes) {
  std::vector<std::byte> out(bytes);
  model.read(name, offset, out);
  for (std::uint64_t i = 0; i < bytes; ++i)
    if (out[i] != MadeFiles::byte(name, offset + i)) return false;
  return true;
}

std::uint64_t live_bytes(Pool& pool) {
  std::uint64_t live = 0;
  for (const int owner : pool.owners())
    if (const auto stats = pool.fetch_stats(owner)) live += stats->live;
  return live;
}

}  // namespace

TEST_CASE("a model that all ask for is read once, held once, and read by all") {
  for (const std::string transport : {"auto", "rma"})
    for (const Roles& roles : all_roles()) {
      std::uint64_t read = 0, brought = 0, asked = 0;
      with_pool(
          small_pool(transport), roles,
          [&](Pool& pool) {
            ModelCache cache(pool, 4000);
            const ModelId id{"model", "1"};
            MadeFiles files = model_files("a", 61234);
            const ModelCache::Outcome outcome = cache.prefetch(id, files);
            CHECK((outcome.status == Status::stored || outcome.status == Status::already_there));
            CHECK(outcome.bytes == 61244);
            CHECK(outcome.bytes_read == files.bytes_read);
            CHECK(cache.contains(id));
            CHECK_FALSE(cache.contains({"model", "2"}));
            read = outcome.bytes_read;
            brought = outcome.status == Status::stored;
            asked = 1;
            const std::shared_ptr<PooledModel> model = cache.open(id);
            CHECK(model != nullptr);
            if (!model) return;
            CHECK(model->names() == files.names());
            CHECK(model->size("a weights") == 61234u);
            CHECK_FALSE(model->has("b weights"));
            CHECK(model->total_bytes() == 61244);
            CHECK(is_intact(*model, "a weights", 0, 61234));
            CHECK(is_intact(*model, "a weights", 3999, 2));
            CHECK(is_intact(*model, "a weights", 8000, 4000));
            CHECK(is_intact(*model, "a weights", 61233, 1));
            CHECK(is_intact(*model, "a weights", 100, 50));
            CHECK(is_intact(*model, "a config", 0, 10));
            CHECK(model->read_text("a nothing").empty());
            CHECK(cache.open({"model", "2"}) == nullptr);
            const std::uint64_t live = live_bytes(pool);  // one copy, and the list of what it consists of
            CHECK(live > 61244);
            CHECK(live < 61244 + 500);
          },
          [&](Pool& pool) {
            const auto total = [](std::uint64_t count) { return world().sum(static_cast<long long>(count)); };
            CHECK(total(read) == 61244);
            CHECK(total(brought) == 1);
            CHECK(total(asked) >= 1);
            meet(pool);
            if (pool.is_owner()) CHECK(core_of(pool).shard->consistent());
          });
    }
}

TEST_CASE("models are evicted as wholes, unless they are open, and never for blocks") {
  for (const std::string transport : {"auto", "rma"})
    with_pool(
        small_pool(transport), {world().size(), true},
        [&](Pool& pool) {
          if (world().rank() != world().size() - 1) return;
          // Two of them fit beside each other, three do not.
          const std::uint64_t bytes = 80000 * static_cast<std::uint64_t>(world().size());
          ModelCache cache(pool, 2000);
          const ModelId a{"a", "1"}, b{"b", "1"}, c{"c", "1"}, huge{"huge", "1"};
          MadeFiles fa = model_files("a", bytes), fb = model_files("b", bytes), fc = model_files("c", bytes),
                    fh = model_files("huge", bytes * 4);
          CHECK(cache.prefetch(a, fa).status == Status::stored);
          CHECK(cache.prefetch(b, fb).status == Status::stored);
          CHECK(cache.prefetch(a, fa).status == Status::already_there);
          CHECK(fa.bytes_read == bytes + 10);

          // Blocks of requests come and go around them.
          Client client(pool, "tenant");
          for (std::uint64_t i = 0; i < 500; ++i)
            CHECK(client.put(key_number(i), make_payload(key_number(i), 1, 3000)) == Status::stored);
          CHECK(cache.contains(a));
          CHECK(cache.contains(b));

          std::shared_ptr<PooledModel> current = cache.open(a);
          CHECK(current != nullptr);
          CHECK(cache.switch_to(current, b));
          CHECK(current->id() == b);
          CHECK(is_intact(*current, "b weights", 0, bytes));
          CHECK_FALSE(cache.switch_to(current, c));
          CHECK(current->id() == b);

          // a is older than b and not open: it goes, all of it.
          CHECK(cache.prefetch(c, fc).status == Status::stored);
          CHECK_FALSE(cache.contains(a));
          CHECK(cache.contains(b));
          CHECK(cache.contains(c));
          CHECK(cache.open(a) == nullptr);
          const std::shared_ptr<PooledModel> other = cache.open(c);
          CHECK(cache.prefetch(a, fa).status == Status::quota);  // both are open
          CHECK(is_intact(*current, "b weights", 0, bytes));
          CHECK(is_intact(*other, "c weights", 0, bytes));
          CHECK_FALSE(cache.contains(a));
          current.reset();
          CHECK(cache.prefetch(a, fa).status == Status::stored);
          CHECK_FALSE(cache.contains(b));
          CHECK(cache.prefetch(huge, fh).status == Status::quota);
          CHECK(cache.contains(c));

          CHECK(cache.remove(c) == Status::removed);
          CHECK(cache.remove(c) == Status::not_there);
          CHECK_FALSE(cache.contains(c));
          std::vector<std::byte> out(100);
          CHECK_THROWS_WITH(other->read("c weights", 0, out), Catch::Matchers::Contains("has been lost"));
        },
        [](Pool& pool) {
          meet(pool);
          CHECK(core_of(pool).shard->consistent());
        });
}

TEST_CASE("a model that cannot be read leaves nothing behind") {
  with_pool(small_pool("auto"), {world().size(), true}, [&](Pool& pool) {
    if (world().rank() != 0) return;
    ModelCache cache(pool, 2000);
    MadeFiles files = model_files("a", 90000);
    files.fail_after = 50000;
    CHECK_THROWS_WITH(cache.prefetch({"a", "1"}, files), Catch::Matchers::Contains("cannot be read"));
    CHECK_FALSE(cache.contains({"a", "1"}));
    CHECK(live_bytes(pool) == 0);
    files.fail_after = ~std::uint64_t{0};
    CHECK(cache.prefetch({"a", "1"}, files).status == Status::stored);
  });
}

TEST_CASE("a model whose blocks were lost is brought in again") {
  if (world().size() < 2) return;
  const Flag flag;
  Pool pool(world(), first_ranks(world().size() - 1), small_pool("auto"));
  TestClock clock(pool);
  const bool is_client = world().rank() == world().size() - 1;
  const ModelId id{"a", "1"};
  MadeFiles files = model_files("a", 60000);
  if (is_client) CHECK(ModelCache(pool, 2000).prefetch(id, files).status == Status::stored);
  meet(pool);
  if (pool.is_owner()) core_of(pool).shard->lose_memory();
  meet(pool);
  if (pool.is_owner()) {
    flag.wait();
    core_of(pool).start_shard();
  } else {
    clock.run();
    CHECK_FALSE(ModelCache(pool, 2000).contains(id));
    clock.stand();
    flag.raise();
    wait_until([&] { return pool.progress(), pool.view().live_count() == world().size() - 1; }, 60,
               [] { return std::string("an owner did not come back"); });
    CHECK(ModelCache(pool, 2000).prefetch(id, files).status == Status::stored);
    CHECK(files.bytes_read == 2 * 60010);
    const std::shared_ptr<PooledModel> model = ModelCache(pool).open(id);
    CHECK(model != nullptr);
    if (model) CHECK(is_intact(*model, "a weights", 0, 60000));
  }
  meet(pool);
}

TEST_CASE("the directory of models: one claims, the others wait, the oldest that is free goes") {
  using internal::ModelDirectory;
  using internal::ModelStep;
  ModelDirectory directory(10);
  const Key a{1, 0}, b{2, 0}, c{3, 0};
  const auto status = [&](ModelStep step, const Key& model, std::uint64_t who, double now) {
    return directory.step(step, model, who, now).status;
  };
  CHECK(status(ModelStep::pin, a, 1, 0) == Status::not_there);
  CHECK(status(ModelStep::claim, a, 1, 0) == Status::stored);
  CHECK(status(ModelStep::claim, a, 2, 1) == Status::full);
  CHECK(status(ModelStep::claim, a, 1, 8) == Status::stored);  // renewed
  CHECK(status(ModelStep::claim, a, 2, 15) == Status::full);
  CHECK(status(ModelStep::claim, a, 2, 19) == Status::stored);  // the first has vanished
  CHECK(status(ModelStep::resident, a, 1, 20) == Status::not_there);
  CHECK(status(ModelStep::resident, a, 2, 20) == Status::stored);
  CHECK(status(ModelStep::claim, a, 1, 20) == Status::already_there);
  for (const Key& model : {b, c}) {
    CHECK(status(ModelStep::claim, model, 1, 20) == Status::stored);
    CHECK(status(ModelStep::resident, model, 1, 20) == Status::stored);
  }
  CHECK(status(ModelStep::pin, b, 1, 21) == Status::stored);
  CHECK(status(ModelStep::claim, a, 1, 21) == Status::already_there);  // used: now c is the oldest
  const ModelDirectory::Answer first = directory.step(ModelStep::make_room, a, 1, 22);
  CHECK(first.status == Status::removed);
  CHECK(first.model == c);
  CHECK(status(ModelStep::make_room, a, 1, 22) == Status::full);  // b is in use
  CHECK(status(ModelStep::unpin, b, 1, 23) == Status::stored);
  CHECK(status(ModelStep::unpin, b, 1, 23) == Status::not_there);
  CHECK(directory.step(ModelStep::make_room, a, 1, 24).model == b);
  CHECK(status(ModelStep::forget, a, 1, 25) == Status::removed);
  CHECK(status(ModelStep::forget, a, 1, 25) == Status::not_there);
}
