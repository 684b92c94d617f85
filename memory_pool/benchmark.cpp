#include "memory_pool/benchmark.hpp"

#include <algorithm>
#include <functional>
#include <iterator>
#include <limits>
#include <numeric>
#include <optional>

#include "memory_pool/benchmark/client_load.hpp"
#include "memory_pool/benchmark/raw_copies.hpp"
#include "memory_pool/transport/pool_access.hpp"
#include "runtime/core/error.hpp"
#include "runtime/core/mpi/mpi_call.hpp"
#include "runtime/core/mpi/repeat.hpp"
#include "runtime/core/statistics.hpp"

namespace supernode::pool {
namespace {

using internal::ClientLoad;
using internal::RawCopy;

constexpr double setup_deadline_s = 120;

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
  Impl(const Communicator& communicator, int n_clients, const PoolConfig& config);

  /// One client's part of a case. Owners: all empty.
  struct Samples {
    std::vector<double> pool_us;    ///< a key
    std::vector<double> raw_us[3];  ///< by RawCopy
    double pool_seconds = 0;
    long long wrong = 0, misses = 0;
  };
  Samples measure(const BenchCase& bench);
  void time(const BenchCase& bench, ClientLoad* load, std::vector<double>* raw_us);
  std::uint64_t key_count(const BenchCase& bench) const;
  /// Runs `step` on the clients while the owners serve; then all are there. Collective.
  void on_clients(double deadline_s, const std::function<void()>& step) {
    const std::function<void()> nothing;
    pool.serve_until_all(comm, is_client ? step : nothing, {.deadline_s = deadline_s, .idle = Idle::spin});
  }

  int clients;
  Communicator comm;
  bool is_client;
  Pool pool;
  const internal::Layout& layout;
  bool is_shared;  ///< the pool's transport
  internal::RawMemory raw;
  std::uint64_t cases = 0;  ///< so far
};

Benchmark::Impl::Impl(const Communicator& communicator, int n_clients, const PoolConfig& config)
    : clients(n_clients),
      comm(communicator.duplicate()),
      is_client(comm.rank() < clients),
      pool(comm, owners_of(comm, clients), config),
      layout(internal::PoolAccess::core(pool).layout),
      is_shared(internal::PoolAccess::core(pool).segment.shared()),
      raw(comm, pool.owners(), layout.capacity,
          is_shared ? internal::WindowKind::shared : internal::WindowKind::allocate) {
  on_clients(setup_deadline_s, {});
  on_clients(setup_deadline_s, [&] { raw.touch(); });
}

std::uint64_t Benchmark::Impl::key_count(const BenchCase& bench) const {
  if (bench.keys > 0) return bench.keys;
  const std::uint64_t room = layout.capacity / 2 * pool.owners().size();
  const std::uint64_t granule = pool.config().granule.value;
  const std::uint64_t block = (bench.block_bytes + granule - 1) / granule * granule;
  const std::uint64_t fitting = std::min<std::uint64_t>(65536, std::max<std::uint64_t>(1, room / block));
  return std::max(fitting, static_cast<std::uint64_t>(clients));
}

/// Pool, MPI and memcpy in turns, a call of each client a round. @param load this client's, null on owners
void Benchmark::Impl::time(const BenchCase& bench, ClientLoad* load, std::vector<double>* raw_us) {
  const auto contender = [&](std::function<double(int)> call) {
    return Contender{.round = [&, call = std::move(call)](int iteration) {
      double seconds = 0;
      on_clients(bench.deadline_s, [&] { seconds = call(iteration); });
      return seconds;
    }};
  };
  std::vector<Contender> contenders{contender([&](int iteration) {
    return load->call(iteration < 0 ? ClientLoad::Counting::not_counted : ClientLoad::Counting::counted);
  })};
  const auto direction = bench.operation == BenchOperation::put ? internal::Direction::put : internal::Direction::get;
  internal::Draw draw(key_count(bench), bench.zipf_alpha, bench.seed + 1, static_cast<std::uint64_t>(comm.rank()));
  std::vector<RawCopy> ways;
  if (bench.operation != BenchOperation::lookup)
    std::copy_if(internal::all_raw_copies.begin(), internal::all_raw_copies.end(), std::back_inserter(ways),
                 [&](RawCopy way) { return raw.has(way); });
  for (const RawCopy way : ways)
    contenders.push_back(contender([&, way](int) { return raw.copy(way, direction, draw, load->buffer()); }));

  const Repetition repetition{.warmup = bench.warmup,
                              .least = bench.iterations,
                              .ci_width = 0,
                              .time_limit_s = std::numeric_limits<double>::infinity()};
  for (Contender& each : contenders) warm_up(comm, repetition, bench.deadline_s, each);
  repeat(comm, repetition, bench.deadline_s, contenders);
  if (!is_client) return;
  for (std::size_t i = 0; i < ways.size(); ++i) raw_us[static_cast<int>(ways[i])] = contenders[i + 1].own_us;
}

Benchmark::Impl::Samples Benchmark::Impl::measure(const BenchCase& bench) {
  std::optional<ClientLoad> load;
  if (is_client) load.emplace(pool, bench, comm.rank(), key_count(bench), cases);
  ++cases;
  Samples samples;
  on_clients(bench.deadline_s, [&] { load->store_all(); });
  time(bench, load ? &*load : nullptr, samples.raw_us);
  if (bench.check) on_clients(bench.deadline_s, [&] { load->check_all(); });
  on_clients(bench.deadline_s, [&] { load->remove_all(); });
  if (!load) return samples;
  samples.pool_us = load->us_per_key();
  samples.pool_seconds = load->seconds();
  samples.wrong = load->wrong();
  samples.misses = load->misses();
  return samples;
}

Benchmark::Benchmark(const Communicator& world, int clients, const PoolConfig& config)
    : impl_(std::make_unique<Impl>(world, clients, config)) {}
Benchmark::~Benchmark() = default;

std::string Benchmark::transport() const { return impl_->is_shared ? "shared" : "rma"; }

BenchResult Benchmark::run(const BenchCase& bench) {
  if (bench.block_bytes < 1 || bench.block_bytes > impl_->layout.capacity / 2)
    throw UsageError("bench pool: blocks of " + std::to_string(bench.block_bytes) +
                     " bytes: at least two must fit into pool.capacity (" + std::to_string(impl_->layout.capacity) +
                     ")");
  if (bench.keys > 0 && bench.keys < static_cast<std::uint64_t>(impl_->clients))
    throw UsageError("bench pool: fewer keys than clients");
  const Impl::Samples samples = impl_->measure(bench);
  const Communicator& comm = impl_->comm;
  const auto gathered = [&](RawCopy way) { return gather_all(comm, samples.raw_us[static_cast<int>(way)]); };
  BenchResult result;
  result.wall_us = gather_all(comm, samples.pool_us);
  const std::vector<double> by_allocated = gathered(RawCopy::mpi_allocate), by_shared = gathered(RawCopy::mpi_shared);
  const bool shared_wins = !by_shared.empty() && (by_allocated.empty() || median(by_shared) < median(by_allocated));
  result.mpi_us = shared_wins ? by_shared : by_allocated;
  result.mpi_window = shared_wins ? "shared" : "allocate";
  result.memcpy_us = gathered(RawCopy::memory);
  result.keys = impl_->key_count(bench);
  const double slowest = comm.max(samples.pool_seconds);
  const int per_call =
      bench.operation == BenchOperation::get || bench.operation == BenchOperation::lookup ? bench.batch : 1;
  const double ops = static_cast<double>(bench.iterations) * impl_->clients * per_call;
  result.ops_per_s = slowest > 0 ? ops / slowest : 0;
  const auto huge = static_cast<long long>(impl_->pool.huge_page_bytes());
  result.huge_page_bytes = static_cast<std::uint64_t>(comm.sum(huge));
  result.wrong = comm.sum(samples.wrong);
  result.misses = comm.sum(samples.misses);
  return result;
}

}  // namespace supernode::pool
