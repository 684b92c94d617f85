// supernode bench pool: times the memory pool beside raw MPI and memcpy, or replays the blocks of a trace.
#include <algorithm>

#include <fmt/format.h>

#include "launch/commands.hpp"
#include "launch/curve_plot.hpp"
#include "launch/rank_places.hpp"
#include "memory_pool/benchmark.hpp"
#include "memory_pool/hit_rate.hpp"
#include "runtime/core/error.hpp"
#include "runtime/core/mpi/agreement.hpp"
#include "runtime/core/sizes.hpp"
#include "runtime/core/statistics.hpp"
#include "runtime/serving/load/trace.hpp"

namespace supernode::launch {
namespace {

class BenchPoolCommand : public Command {
 public:
  void describe(OptionTable& t) override {
    const std::string section = "bench_pool";
    t.add(section, "op", op_, "what is timed; mixed: gets, and puts of new versions")
        .choices({"get", "put", "lookup", "mixed"});
    t.add(section, "block_bytes", block_bytes_, "size of a block, MIN:MAX doubles from one to the other")
        .short_flag('m');
    t.add(section, "clients", clients_, "ranks that use the pool, the first ones; the others own it. 0: all but one")
        .range(0, 1 << 24);
    t.add(section, "batch", batch_, "keys a call of get or lookup; 0: 256 for lookup, else 1").range(0, 1 << 20);
    t.add(section, "keys", keys_, "distinct blocks; 0: half the pool's memory, at most 65536").range(0, 1 << 26);
    t.add(section, "zipf_alpha", zipf_alpha_, "block i is drawn with weight 1/(i+1)^alpha; 0: all alike").range(0, 100);
    t.add(section, "get_share", get_share_, "of mixed: share of gets").range(0, 1);
    t.add(section, "seed", seed_, "of the draws");
    t.add(section, "iterations", iterations_, "timed calls of each client").short_flag('i').range(1, 1e8);
    t.add(section, "warmup", warmup_, "calls before them").short_flag('x').range(0, 1e8);
    t.add(section, "check", check_, "1: compare every byte with what was stored; 0: do not")
        .short_flag('c')
        .range(0, 1);
    t.add(section, "trace", trace_, "instead: hit rate over capacity for the blocks of this request trace");
    t.add(section, "max_requests", max_requests_, "of the trace; 0: all").range(0, 1e9);
    t.add(section, "curve_blocks", curve_blocks_, "capacities of that curve, blocks; empty: powers of 4 up to ample");
    t.add(section, "plot", plot_, "of --trace: picture of that curve, a new file ending in .svg, .png or .dat");
    pool::describe(t, pool_);
  }

  int run(const Context& context) override {
    on_root(*context.world, [&] {
      if (plot_.empty()) return;
      if (trace_.empty()) throw UsageError("--plot: only the curve of a --trace is plotted");
      check_plot_path(plot_, context.run.if_exists());
    });
    return trace_.empty() ? time(context) : replay(context);
  }

 private:
  int time(const Context& context) {
    const Communicator& world = *context.world;
    if (block_bytes_.min < 1) throw UsageError("--block-bytes: MIN:MAX with 1 <= MIN <= MAX");
    if (!context.options->given("pool", "capacity")) pool_.capacity = {256u << 20};
    places_ = rank_places(context);

    pool::BenchCase bench;
    bench.operation = pool::parse_bench_operation(op_);
    bench.clients = clients_ > 0 ? clients_ : std::max(1, world.size() - 1);
    bench.iterations = iterations_;
    bench.warmup = warmup_;
    bench.batch = batch_ > 0 ? batch_ : bench.operation == pool::BenchOperation::lookup ? 256 : 1;
    bench.keys = static_cast<std::uint64_t>(keys_);
    bench.zipf_alpha = zipf_alpha_;
    bench.get_share = get_share_;
    bench.check = check_ == 1;
    bench.seed = seed_;
    bench.deadline_s = context.run.deadline;

    pool::Benchmark benchmark(world, bench.clients, pool_);
    transport_ = benchmark.transport();
    Json results = Json::array();
    std::vector<Samples> samples;
    std::string rows;
    long long wrong = 0;
    for (const std::uint64_t bytes : doubling_sizes(block_bytes_.min, block_bytes_.max)) {
      bench.block_bytes = bytes;
      const pool::BenchResult result = benchmark.run(bench);
      wrong += result.wrong;
      huge_page_bytes_ = result.huge_page_bytes;
      if (context.is_root()) {
        results.push_back(as_json(bench, result));
        rows += as_text(bench, result);
        const std::string path = fmt::format("samples/{}/{}/", op_, bytes);
        samples.push_back({path + "wall_us", result.wall_us, {result.wall_us.size()}});
        samples.push_back({path + "mpi_us", result.mpi_us, {result.mpi_us.size()}});
        samples.push_back({path + "memcpy_us", result.memcpy_us, {result.memcpy_us.size()}});
      }
    }
    report(context, "bench pool", results, context.is_root() ? header(bench) + rows : std::string(), samples);
    if (wrong > 0) throw AgreedError(ExitCode::check_failed, fmt::format("bench pool: {} wrong blocks", wrong));
    return static_cast<int>(ExitCode::good);
  }

  static double gbps(double bytes, double us) { return us > 0 ? bytes / us / 1e3 : 0; }
  static double p50(const std::vector<double>& sample) { return summarize(sample).p50; }

  Json as_json(const pool::BenchCase& bench, const pool::BenchResult& r) const {
    const Summary wall = summarize(r.wall_us), mpi = summarize(r.mpi_us), copy = summarize(r.memcpy_us);
    const double bytes = moved(bench);
    const double all = bytes * bench.clients;
    return {{"op", op_},
            {"block_bytes", bench.block_bytes},
            {"clients", bench.clients},
            {"iterations", iterations_},
            {"wall_us", to_json(wall)},
            {"GBps", gbps(all, wall.p50)},
            {"ops_per_s", r.ops_per_s},
            {"wrong", bench.check ? Json(r.wrong) : Json()},
            {"baseline",
             {{"mpi_GBps", gbps(all, mpi.p50)},
              {"memcpy_GBps", gbps(all, copy.p50)},
              {"mpi_us", to_json(mpi)},
              {"memcpy_us", to_json(copy)},
              {"mpi_window", r.mpi_us.empty() ? Json() : Json(r.mpi_window)}}},
            {"misses", r.misses},
            {"owners", owners(bench)},
            {"hosts", places_.hosts},
            {"batch", bench.batch},
            {"keys", r.keys},
            {"zipf_alpha", zipf_alpha_},
            {"seed", seed_},
            {"transport", transport_},
            {"huge_page_bytes", r.huge_page_bytes},
            {"verify_below", pool_.verify_below.value},
            {"verify_every", pool_.verify_every},
            {"oversubscribed", places_.oversubscribed}};
  }

  int owners(const pool::BenchCase& bench) const { return std::max(1, places_.ranks - bench.clients); }
  static double moved(const pool::BenchCase& bench) {
    return bench.operation == pool::BenchOperation::lookup ? 0 : static_cast<double>(bench.block_bytes);
  }

  std::string header(const pool::BenchCase& bench) const {
    return fmt::format(
               "# supernode bench pool: {}, {} client{}, {} owner{} on {} host{}, transport {}{}\n"
               "# batch {}, zipf alpha {}, seed {}, {} a owner; reads checked by version, {}\n"
               "# us = 1e-6 s a block, GB/s = 1e9 B/s of all clients from p50; ops/s from total time of the slowest "
               "client\n"
               "# mpi: MPI_{} and flush of the same bytes, the faster kind of window; memcpy: the same bytes, local\n",
               op_, bench.clients, bench.clients == 1 ? "" : "s", owners(bench), owners(bench) == 1 ? "" : "s",
               places_.hosts, places_.hosts == 1 ? "" : "s", transport_,
               places_.oversubscribed ? ", more ranks than cores: no timing" : "", bench.batch, zipf_alpha_, seed_,
               format_size(static_cast<double>(pool_.capacity.value)), sums(), op_ == "put" ? "Put" : "Get") +
           fmt::format("# huge pages back {} of the owners' memory\n",
                       format_size(static_cast<double>(huge_page_bytes_))) +
           fmt::format(
               "{:<12} {:>8} {:>10} {:>10} {:>10} {:>10} {:>10} {:>9} {:>11} {:>8} {:>8} {:>8} {:>7} {:>6} {:>7}\n",
               "#bytes", "keys", "min_us", "mean_us", "p50_us", "p90_us", "p99_us", "ci95_us", "ops/s", "GB/s", "mpi",
               "memcpy", "of_mpi", "wrong", "misses");
  }

  std::string sums() const {
    if (transport_ == "rma" || pool_.verify_every == 1) return "and all by checksum";
    return fmt::format("and by checksum: up to {} all, larger ones every {}th",
                       format_size(static_cast<double>(pool_.verify_below.value)), pool_.verify_every);
  }

  std::string as_text(const pool::BenchCase& bench, const pool::BenchResult& r) const {
    const Summary wall = summarize(r.wall_us);
    const double all = moved(bench) * bench.clients;
    const double mpi = p50(r.mpi_us);
    return fmt::format(
        "{:<12} {:>8} {:>10.2f} {:>10.2f} {:>10.2f} {:>10.2f} {:>10.2f} {:>9.2f} {:>11.0f} {:>8.3f} {:>8.3f} {:>8.3f} "
        "{:>7.3f} {:>6} {:>7}\n",
        bench.block_bytes, r.keys, wall.min, wall.mean, wall.p50, wall.p90, wall.p99, wall.ci95, r.ops_per_s,
        gbps(all, wall.p50), gbps(all, mpi), gbps(all, p50(r.memcpy_us)), wall.p50 > 0 ? mpi / wall.p50 : 0,
        bench.check ? std::to_string(r.wrong) : "-", r.misses);
  }

  /// The blocks that the requests of a trace ask for.
  struct AskedBlocks {
    std::vector<std::vector<std::int64_t>> requests;
    std::size_t asked = 0, distinct = 0;
    /// The share of hits of a memory that holds all.
    double ideal_hit_rate() const {
      return asked > 0 ? 1 - static_cast<double>(distinct) / static_cast<double>(asked) : 0;
    }
  };

  static AskedBlocks blocks_of(const serving::Trace& trace) {
    AskedBlocks blocks;
    std::vector<std::int64_t> all;
    for (const serving::TraceRequest& request : trace.requests) {
      blocks.requests.push_back(request.hash_ids);
      all.insert(all.end(), request.hash_ids.begin(), request.hash_ids.end());
    }
    blocks.asked = all.size();
    std::sort(all.begin(), all.end());
    blocks.distinct = static_cast<std::size_t>(std::unique(all.begin(), all.end()) - all.begin());
    return blocks;
  }

  /// The capacities of the curve, blocks.
  std::vector<int> capacities_for(std::size_t distinct) const {
    if (!curve_blocks_.empty()) return curve_blocks_;
    std::vector<int> capacities;
    for (int blocks = 64; static_cast<std::size_t>(blocks) < distinct; blocks *= 4) capacities.push_back(blocks);
    capacities.push_back(static_cast<int>(distinct * 5 / 4 + 64));
    return capacities;
  }

  /// Rank 0 replays; the others wait for the outcome.
  int replay(const Context& context) {
    const Communicator& world = *context.world;
    const Communicator self = world.split(world.rank(), 0);
    const std::string text = read_file_on_root(world, trace_);
    const serving::Trace trace = collectively(world, [&] {
      return serving::parse_trace(text, trace_, {.max_requests = static_cast<std::size_t>(max_requests_)});
    });
    if (trace.block_tokens == 0) throw UsageError("--trace " + trace_ + ": has no block keys (hash_ids)");
    for (const int blocks : curve_blocks_)
      if (blocks < 1) throw UsageError("--curve-blocks: at least 1 block");
    Json results = Json::array();
    std::string rows;
    on_root(world, [&] { replay_alone(self, trace, context.run.if_exists(), results, rows); });
    report(context, "bench pool", results, rows);
    return static_cast<int>(ExitCode::good);
  }

  /// Fills in the rows of the document and of the table, and plots. @param self a communicator of this rank alone
  void replay_alone(const Communicator& self, const serving::Trace& trace, IfExists if_exists, Json& results,
                    std::string& rows) const {
    const AskedBlocks blocks = blocks_of(trace);
    const double ideal = blocks.ideal_hit_rate();
    rows = fmt::format(
        "# supernode bench pool: {} requests of {}, {} blocks of {} tokens, {} distinct; ideal hit rate {:.2f} %\n"
        "# least recently used goes first; a block hits when its whole prefix does\n"
        "{:<12} {:>10} {:>10} {:>10} {:>10}\n",
        blocks.requests.size(), trace_, blocks.asked, trace.block_tokens, blocks.distinct, ideal * 100, "#blocks",
        "asked", "hits", "hit_pct", "evictions");
    std::vector<CurvePoint> curve;
    for (const int capacity : capacities_for(blocks.distinct)) {
      const pool::HitRate rate = pool::replay_blocks(self, blocks.requests, static_cast<std::uint64_t>(capacity));
      const double share = rate.asked > 0 ? static_cast<double>(rate.hits) / static_cast<double>(rate.asked) : 0;
      rows += fmt::format("{:<12} {:>10} {:>10} {:>10.2f} {:>10}\n", capacity, rate.asked, rate.hits, share * 100,
                          rate.evictions);
      curve.push_back({static_cast<double>(capacity), share * 100});
      results.push_back({{"op", "trace"},
                         {"capacity_blocks", capacity},
                         {"asked", rate.asked},
                         {"hits", rate.hits},
                         {"hit_rate", share},
                         {"ideal_hit_rate", ideal},
                         {"evictions", rate.evictions}});
    }
    if (!plot_.empty())
      rows += "# plotted: " + plot_curve(plot_, curve, ideal * 100, "hit rate of " + trace_, if_exists) + "\n";
  }

  std::string op_ = "get", trace_, plot_, transport_;
  BytesRange block_bytes_{4096, 4u << 20};
  int clients_ = 0, batch_ = 0, keys_ = 0, iterations_ = 400, warmup_ = 40, check_ = 1, max_requests_ = 0;
  double zipf_alpha_ = 0, get_share_ = 0.9;
  std::uint64_t seed_ = 1;
  std::vector<int> curve_blocks_;
  pool::PoolConfig pool_;
  std::uint64_t huge_page_bytes_ = 0;
  RankPlaces places_;
};

}  // namespace

std::unique_ptr<Command> make_bench_pool() { return std::make_unique<BenchPoolCommand>(); }

}  // namespace supernode::launch
