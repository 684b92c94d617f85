#include "memory_pool/benchmark.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <numeric>
#include <optional>

#include "memory_pool/client.hpp"
#include "memory_pool/transport/pool_access.hpp"
#include "runtime/core/clock.hpp"
#include "runtime/core/error.hpp"
#include "runtime/core/mpi/mpi_call.hpp"
#include "runtime/core/mpi/shared_window.hpp"
#include "runtime/core/random.hpp"
#include "runtime/core/statistics.hpp"

namespace supernode::pool {
namespace {

constexpr int turn_calls = 8;  // pool, MPI and memcpy alternate after so many calls

/// Block `number` of `version`: every word names both and its place.
void fill_block(std::span<std::byte> block, std::uint64_t number, std::uint64_t version) {
  const std::uint64_t start = mix64(number ^ mix64(version));
  for (std::size_t at = 0; at < block.size(); at += 8) {
    const std::uint64_t word = start + at * 0x9e3779b97f4a7c15ull;
    std::memcpy(block.data() + at, &word, std::min<std::size_t>(8, block.size() - at));
  }
}

bool is_block(std::span<const std::byte> block, std::uint64_t number, std::uint64_t version) {
  const std::uint64_t start = mix64(number ^ mix64(version));
  std::uint64_t differences = 0;
  std::size_t at = 0;
  for (; at + 8 <= block.size(); at += 8) {
    std::uint64_t word = 0;
    std::memcpy(&word, block.data() + at, 8);
    differences |= word ^ (start + at * 0x9e3779b97f4a7c15ull);
  }
  const std::uint64_t last = start + at * 0x9e3779b97f4a7c15ull;
  return differences == 0 && std::memcmp(block.data() + at, &last, block.size() - at) == 0;
}

/// Draws block numbers: alike, or by Zipf's law.
class Draw {
 public:
  Draw(std::uint64_t keys, double alpha, std::uint64_t seed, std::uint64_t stream)
      : keys_(keys), random_(seed, stream) {
    if (alpha == 0) return;
    double sum = 0;
    for (std::uint64_t i = 0; i < keys; ++i) cumulative_.push_back(sum += std::pow(static_cast<double>(i + 1), -alpha));
  }
  std::uint64_t next() {
    if (cumulative_.empty()) return random_.below(keys_);
    const double at = random_.uniform() * cumulative_.back();
    const auto found = std::upper_bound(cumulative_.begin(), cumulative_.end(), at);
    return std::min(keys_ - 1, static_cast<std::uint64_t>(found - cumulative_.begin()));
  }
  double uniform() { return random_.uniform(); }

 private:
  std::uint64_t keys_;
  Random random_;
  std::vector<double> cumulative_;
};

/// A window for the baselines, locked for all its life.
class RawWindow {
 public:
  /// Collective. False in ok() where this MPI has no such window.
  RawWindow(const Communicator& comm, std::uint64_t bytes, bool shared) {
    const WindowUse use{"the window of the benchmark's baseline, as large as the pool's memory,",
                        "choose a smaller pool.capacity"};
    SharedWindow memory = shared ? allocate_shared_window(comm, comm, bytes, use) : allocate_window(comm, bytes, use);
    ok_ = static_cast<bool>(memory.window);
    if (!ok_) return;
    window_ = std::move(memory.window);
    SUPERNODE_MPI(MPI_Win_lock_all(MPI_MODE_NOCHECK, window_.get()));
    take_window_pages(comm, {memory.own, bytes}, use);
    if (bytes > 0) std::memset(memory.own, 1, bytes);
  }
  ~RawWindow() {
    if (ok_) MPI_Win_unlock_all(window_.get());
  }
  RawWindow(const RawWindow&) = delete;
  RawWindow& operator=(const RawWindow&) = delete;

  bool ok() const { return ok_; }
  void get(int owner, std::uint64_t offset, std::span<std::byte> to) {
    SUPERNODE_MPI(MPI_Get(to.data(), count_cast(to.size()), MPI_BYTE, owner, static_cast<MPI_Aint>(offset),
                          count_cast(to.size()), MPI_BYTE, window_.get()));
    SUPERNODE_MPI(MPI_Win_flush(owner, window_.get()));
  }
  void put(int owner, std::uint64_t offset, std::span<const std::byte> from) {
    SUPERNODE_MPI(MPI_Put(from.data(), count_cast(from.size()), MPI_BYTE, owner, static_cast<MPI_Aint>(offset),
                          count_cast(from.size()), MPI_BYTE, window_.get()));
    SUPERNODE_MPI(MPI_Win_flush(owner, window_.get()));
  }

 private:
  OwnedWindow window_;
  bool ok_ = false;
};

std::vector<int> owners_of(const Communicator& world, int clients) {
  if (world.size() == 1 && clients == 1) return {0};
  if (clients < 1 || clients >= world.size())
    throw UsageError("bench pool: " + std::to_string(clients) + " clients leave no owner among " +
                     std::to_string(world.size()) + " ranks");
  std::vector<int> owners(static_cast<std::size_t>(world.size() - clients));
  std::iota(owners.begin(), owners.end(), clients);
  return owners;
}

/// Values of all ranks on rank 0.
std::vector<double> gather_all(const Communicator& comm, const std::vector<double>& values) {
  const int count = count_cast(values.size());
  std::vector<int> counts(static_cast<std::size_t>(comm.size())), starts(counts.size());
  SUPERNODE_MPI(MPI_Gather(&count, 1, MPI_INT, counts.data(), 1, MPI_INT, 0, comm.get()));
  std::exclusive_scan(counts.begin(), counts.end(), starts.begin(), 0);
  std::vector<double> all(comm.rank() == 0 ? static_cast<std::size_t>(starts.back() + counts.back()) : 0);
  SUPERNODE_MPI(MPI_Gatherv(values.data(), count, MPI_DOUBLE, all.data(), counts.data(), starts.data(), MPI_DOUBLE, 0,
                            comm.get()));
  return all;
}

double median(const std::vector<double>& sample) { return sample.empty() ? 0 : summarize(sample).p50; }

}  // namespace

BenchOperation parse_bench_operation(std::string_view name) {
  if (name == "get") return BenchOperation::get;
  if (name == "put") return BenchOperation::put;
  if (name == "lookup") return BenchOperation::lookup;
  if (name == "mixed") return BenchOperation::mixed;
  throw UsageError("operation '" + std::string(name) + "' unknown; known: get, put, lookup, mixed");
}

struct Benchmark::Impl {
  Impl(const Communicator& communicator, int n_clients, const PoolConfig& config)
      : clients(n_clients),
        comm(communicator.duplicate()),
        pool(comm, owners_of(comm, clients), config),
        allocated(comm, pool.is_owner() ? internal::PoolAccess::core(pool).layout.capacity : 0, false) {
    if (internal::PoolAccess::core(pool).segment.shared())
      shared.emplace(comm, pool.is_owner() ? internal::PoolAccess::core(pool).layout.capacity : 0, true);
    is_client = comm.rank() < clients;
    meet(120);
    if (is_client) {
      local.resize(internal::PoolAccess::core(pool).layout.capacity, std::byte{1});
      touch(allocated);
      if (shared) touch(*shared);
    }
    meet(120);
  }

  /// Writes and reads all of a window, so that no timed call is the first to map a page. The fills do so for the pool.
  void touch(RawWindow& window) {
    if (!window.ok()) return;
    const std::span<std::byte> all(local);
    constexpr std::size_t piece = 1u << 20;
    for (const int owner : pool.owners())
      for (std::size_t at = 0; at < all.size(); at += piece) {
        const std::span<std::byte> part = all.subspan(at, std::min(piece, all.size() - at));
        window.put(owner, at, part);
        window.get(owner, at, part);
      }
  }

  /// Waits for all ranks; owners go on serving.
  void meet(double deadline_s) { pool.serve_until_all(comm, {}, {.deadline_s = deadline_s, .may_sleep = false}); }

  /// One client's part of a case.
  struct Work {
    std::vector<double> pool_us, memcpy_us;
    std::vector<double> mpi_us[2];  ///< by kind of window
    double pool_seconds = 0;
    long long wrong = 0, misses = 0;
  };
  std::uint64_t key_count(const BenchCase& bench) {
    const std::uint64_t room = internal::PoolAccess::core(pool).layout.capacity / 2 * pool.owners().size();
    const std::uint64_t granule = pool.config().granule.value;
    const std::uint64_t block = (bench.block_bytes + granule - 1) / granule * granule;
    const std::uint64_t fitting = std::min<std::uint64_t>(65536, std::max<std::uint64_t>(1, room / block));
    return bench.keys > 0 ? bench.keys : std::max(fitting, static_cast<std::uint64_t>(clients));
  }
  Work measure(const BenchCase& bench);
  void time_pool(const BenchCase& bench, Draw& draw, Work& work, bool counted);
  void time_baselines(const BenchCase& bench, Draw& draw, Work& work, bool counted);
  void check_all(const BenchCase& bench, Work& work);
  Key key(std::uint64_t number) const { return {mix64(number), mix64(number ^ mix64(round))}; }
  bool mine(std::uint64_t number) const {
    return number % static_cast<std::uint64_t>(clients) == static_cast<std::uint64_t>(comm.rank());
  }
  bool store(std::uint64_t number, std::uint64_t version, std::span<std::byte> buffer);

  int clients;
  Communicator comm;
  Pool pool;
  RawWindow allocated;
  std::optional<RawWindow> shared;
  bool is_client = false;
  std::vector<std::byte> local;  ///< where memcpy reads and writes, as large as an owner's memory
  std::optional<Client> client;
  std::vector<std::uint64_t> versions;  ///< of the blocks that this client stores
  std::vector<std::vector<std::byte>> buffers;
  std::uint64_t round = 0;  ///< cases so far
};

bool Benchmark::Impl::store(std::uint64_t number, std::uint64_t version, std::span<std::byte> buffer) {
  fill_block(buffer, number, version);
  versions[number] = version;
  return client->put(key(number), buffer, PutMode::replace) == Status::stored;
}

void Benchmark::Impl::time_pool(const BenchCase& bench, Draw& draw, Work& work, bool counted) {
  const bool is_put = bench.operation == BenchOperation::put ||
                      (bench.operation == BenchOperation::mixed && draw.uniform() > bench.get_share);
  const auto count = static_cast<std::size_t>(is_put ? 1 : bench.batch);
  std::vector<std::uint64_t> numbers(count);
  std::vector<Key> keys(count);
  std::vector<GetItem> items(count);
  for (std::size_t i = 0; i < count; ++i) {
    numbers[i] = draw.next();
    // A writer has blocks of its own, so that everybody knows the newest version of what it wrote.
    if (is_put) numbers[i] -= std::min(numbers[i], numbers[i] % static_cast<std::uint64_t>(clients));
    if (is_put) numbers[i] += static_cast<std::uint64_t>(comm.rank());
    if (is_put && numbers[i] >= versions.size()) numbers[i] = static_cast<std::uint64_t>(comm.rank());
    keys[i] = key(numbers[i]);
    items[i] = {keys[i], buffers[i]};
  }
  std::vector<Found> found;
  Status status = Status::stored;
  if (is_put) fill_block(buffers[0], numbers[0], ++versions[numbers[0]]);
  const WallTime start = wall_now();
  if (is_put)
    status = client->put(keys[0], buffers[0], PutMode::replace);
  else if (bench.operation == BenchOperation::lookup)
    found = client->lookup(keys);
  else
    found = client->get_batch(items);
  const WallTime elapsed = wall_now() - start;
  if (counted) {
    work.pool_us.push_back(elapsed.us() / static_cast<double>(count));
    work.pool_seconds += elapsed.value;
    work.misses += status != Status::stored;
    for (const Found& f : found) work.misses += !f.hit();
  }
  if (!bench.check || is_put) return;
  for (std::size_t i = 0; i < count; ++i) {
    if (!found[i].hit()) continue;
    if (bench.operation == BenchOperation::lookup) {
      work.wrong += found[i].length != bench.block_bytes;
    } else if (bench.operation == BenchOperation::get) {
      work.wrong += found[i].length != bench.block_bytes || !is_block(buffers[i], numbers[i], 1);
    } else if (mine(numbers[i])) {  // others are writing theirs: only the version that their put returned is known
      work.wrong += !is_block(buffers[i], numbers[i], versions[numbers[i]]);
    }
  }
}

void Benchmark::Impl::time_baselines(const BenchCase& bench, Draw& draw, Work& work, bool counted) {
  const bool is_put = bench.operation == BenchOperation::put;
  const std::uint64_t blocks = local.size() / bench.block_bytes;
  const std::span<std::byte> buffer(buffers[0]);
  for (int kind = 0; kind < 3; ++kind) {
    RawWindow* window = kind == 0 ? &allocated : kind == 1 && shared ? &*shared : nullptr;
    if (kind < 2 && (!window || !window->ok())) continue;
    std::vector<double>& sample = kind < 2 ? work.mpi_us[kind] : work.memcpy_us;
    for (int call = 0; call < turn_calls; ++call) {
      const std::uint64_t number = draw.next();
      const std::uint64_t offset = mix64(number) % blocks * bench.block_bytes;
      const int owner = pool.owners()[number % pool.owners().size()];
      if (is_put) fill_block(buffer, number, 0);  // warm in the cache, as before a put of the pool
      const WallTime start = wall_now();
      if (kind == 2)
        std::memcpy(is_put ? local.data() + offset : buffer.data(), is_put ? buffer.data() : local.data() + offset,
                    bench.block_bytes);
      else if (is_put)
        window->put(owner, offset, buffer);
      else
        window->get(owner, offset, buffer);
      const double us = (wall_now() - start).us();
      if (counted) sample.push_back(us);
      if (bench.check && !is_put && buffer[0] == std::byte{}) ++work.wrong;  // reads what was copied, as above
    }
  }
}

void Benchmark::Impl::check_all(const BenchCase& bench, Work& work) {
  for (std::uint64_t number = 0; number < versions.size(); ++number) {
    if (!mine(number)) continue;
    std::vector<std::byte>& buffer = buffers[0];
    const Found found = client->get(key(number), buffer);
    if (found.hit() && (found.length != bench.block_bytes || !is_block(buffer, number, versions[number]))) ++work.wrong;
  }
}

Benchmark::Impl::Work Benchmark::Impl::measure(const BenchCase& bench) {
  Work work;
  const std::uint64_t keys = key_count(bench);
  Draw draw(keys, bench.zipf_alpha, bench.seed, static_cast<std::uint64_t>(comm.rank()));
  if (is_client) {
    client.emplace(pool, "bench");
    versions.assign(keys, 0);
    buffers.assign(static_cast<std::size_t>(bench.batch), std::vector<std::byte>(bench.block_bytes));
    // Twice, so that nearly all of the owners' memory has been touched before the clock runs.
    for (const std::uint64_t version : {0, 1})
      for (std::uint64_t number = 0; number < keys; ++number)
        if (mine(number) && !store(number, version, buffers[0])) ++work.misses;
    work.misses = 0;
  }
  meet(bench.deadline_s);
  if (is_client) {
    const bool moves = bench.operation != BenchOperation::lookup;
    for (int call = 0; call < bench.warmup + bench.iterations; ++call) {
      const bool counted = call >= bench.warmup;
      time_pool(bench, draw, work, counted);
      if (moves && (call + 1) % turn_calls == 0) time_baselines(bench, draw, work, counted);
    }
    if (moves && work.memcpy_us.empty()) time_baselines(bench, draw, work, true);
  }
  meet(bench.deadline_s);
  if (is_client) {
    if (bench.check) check_all(bench, work);
    for (std::uint64_t number = 0; number < keys; ++number)
      if (mine(number)) client->remove(key(number));
    client.reset();
  }
  ++round;
  meet(bench.deadline_s);
  return work;
}

Benchmark::Benchmark(const Communicator& world, int clients, const PoolConfig& config)
    : impl_(std::make_unique<Impl>(world, clients, config)) {}
Benchmark::~Benchmark() = default;

std::string Benchmark::transport() const {
  return internal::PoolAccess::core(impl_->pool).segment.shared() ? "shared" : "rma";
}

BenchResult Benchmark::run(const BenchCase& bench) {
  if (bench.block_bytes < 1 || bench.block_bytes > internal::PoolAccess::core(impl_->pool).layout.capacity / 2)
    throw UsageError("bench pool: blocks of " + std::to_string(bench.block_bytes) +
                     " bytes: at least two must fit into pool.capacity (" +
                     std::to_string(internal::PoolAccess::core(impl_->pool).layout.capacity) + ")");
  if (bench.keys > 0 && bench.keys < static_cast<std::uint64_t>(impl_->clients))
    throw UsageError("bench pool: fewer keys than clients");
  Impl::Work work = impl_->measure(bench);
  const Communicator& comm = impl_->comm;
  BenchResult result;
  result.wall_us = gather_all(comm, work.pool_us);
  const std::vector<double> by_allocated = gather_all(comm, work.mpi_us[0]),
                            by_shared = gather_all(comm, work.mpi_us[1]);
  const bool shared_wins = !by_shared.empty() && (by_allocated.empty() || median(by_shared) < median(by_allocated));
  result.mpi_us = shared_wins ? by_shared : by_allocated;
  result.mpi_window = shared_wins ? "shared" : "allocate";
  result.memcpy_us = gather_all(comm, work.memcpy_us);
  result.keys = impl_->key_count(bench);
  const double slowest = comm.max(work.pool_seconds);
  const int per_call =
      bench.operation == BenchOperation::get || bench.operation == BenchOperation::lookup ? bench.batch : 1;
  const double ops = static_cast<double>(bench.iterations) * impl_->clients * per_call;
  result.ops_per_s = slowest > 0 ? ops / slowest : 0;
  const auto huge = static_cast<long long>(impl_->pool.huge_page_bytes());
  result.huge_page_bytes = static_cast<std::uint64_t>(comm.sum(huge));
  result.wrong = comm.sum(work.wrong);
  result.misses = comm.sum(work.misses);
  return result;
}

}  // namespace supernode::pool
