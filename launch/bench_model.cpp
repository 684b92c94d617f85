// supernode bench model: prefill and decode of a model of given sizes with seeded weights, beside its products alone.
#include <algorithm>
#include <array>
#include <map>

#include <fmt/format.h>

#include "collectives/rule_file.hpp"
#include "launch/commands.hpp"
#include "moe/checkpoint.hpp"
#include "moe/parameter_count.hpp"
#include "moe/transformer.hpp"
#include "runtime/core/clock.hpp"
#include "runtime/core/error.hpp"
#include "runtime/core/mpi/agreement.hpp"
#include "runtime/core/random.hpp"
#include "runtime/core/statistics.hpp"

namespace supernode::launch {
namespace {

struct Operator {
  const char* name;
  double moe::StepStatistics::*seconds;
};
constexpr std::array operators{
    Operator{"attention", &moe::StepStatistics::attention}, Operator{"experts", &moe::StepStatistics::experts},
    Operator{"dense", &moe::StepStatistics::dense},         Operator{"gate", &moe::StepStatistics::gate},
    Operator{"head", &moe::StepStatistics::head},           Operator{"exchange", &moe::StepStatistics::exchange},
    Operator{"other", &moe::StepStatistics::other}};

/// Prefill or decode, measured.
struct Phase {
  std::string name;
  double tokens = 0;                          ///< of a step, all ranks
  std::vector<double> step_ms;                ///< the slowest rank's
  std::array<double, operators.size()> ms{};  ///< mean over steps and ranks
  double gemm_ms = 0;                         ///< the products of a step alone, mean over ranks
  double onednn_ms = 0;                       ///< the same products, all by oneDNN
  double gemm_gflops = 0;                     ///< of all ranks
  /// Share of the products' operations on rank 0, by implementation.
  std::map<std::string, double> implementations;

  double compute_ms() const {
    double sum = 0;
    for (std::size_t i = 0; i < operators.size(); ++i)
      if (operators[i].seconds != &moe::StepStatistics::exchange) sum += ms[i];
    return sum;
  }
  /// A part's share of the step without the exchange.
  double share(double part_ms) const { return compute_ms() > 0 ? part_ms / compute_ms() : 0; }
};

class BenchModelCommand : public Command {
 public:
  void describe(OptionTable& t) override {
    const std::string section = "bench_model";
    t.add(section, "hidden", c_.hidden_size, "elements of a token's row").range(1, 1 << 18);
    t.add(section, "layers", c_.n_layers, "layers, the dense ones included").range(1, 1000);
    t.add(section, "dense_layers", c_.first_dense_layers, "layers without routed experts, at the start").range(0, 1000);
    t.add(section, "intermediate", c_.intermediate_size, "width of dense layers").range(1, 1 << 20);
    t.add(section, "experts", c_.n_routed_experts, "routed experts of a layer; 0: dense layers only").range(0, 1 << 16);
    t.add(section, "topk", c_.topk, "routed experts of a token").range(1, 1024);
    t.add(section, "shared_experts", c_.n_shared_experts, "experts of every token").range(0, 1024);
    t.add(section, "moe_intermediate", c_.moe_intermediate_size, "width of an expert").range(1, 1 << 20);
    t.add(section, "heads", c_.n_heads, "attention heads").range(1, 1 << 12);
    t.add(section, "q_lora", c_.q_lora_rank, "rank of the query projection; 0: none").range(0, 1 << 16);
    t.add(section, "kv_lora", c_.kv_lora_rank, "cached latent of a token").range(1, 1 << 16);
    t.add(section, "nope", c_.nope_dim, "elements of a head's query without position").range(1, 1 << 14);
    t.add(section, "rope", c_.rope_dim, "elements of a head's query with position, even").range(2, 1 << 14);
    t.add(section, "v_dim", c_.v_dim, "elements of a head's value").range(1, 1 << 14);
    t.add(section, "vocab", c_.vocab_size, "tokens of the vocabulary").range(1, 1 << 24);
    t.add(section, "batch", batch_, "sequences over all ranks; sequence i is rank i mod ranks'").range(1, 1 << 20);
    t.add(section, "kv_tokens", kv_tokens_, "tokens of a sequence: prefilled, and cached when decoding")
        .range(1, 1 << 20);
    t.add(section, "phase", phase_, "what is timed").choices({"both", "prefill", "decode"});
    t.add(section, "dtype", dtype_, "type of the model's matrices").choices({"f32", "bf16", "int8"});
    t.add(section, "exchange", exchange_, "algorithm of the token exchange");
    collectives::describe(t, selection_);
    t.add(section, "max_batch_tokens", max_batch_tokens_, "tokens of a rank that go through the layers at once")
        .range(1, 1 << 20);
    t.add(section, "threads", threads_, "threads of oneDNN in each rank").range(1, 1024);
    t.add(section, "seed", seed_, "of weights and tokens");
    t.add(section, "iterations", iterations_, "timed decode steps; prefill is timed once")
        .short_flag('i')
        .range(1, 1e6);
    t.add(section, "warmup", warmup_, "decode steps before them").short_flag('x').range(1, 1e6);
  }

  int run(const Context& context) override {
    const Communicator& world = *context.world;
    check_sizes();
    check_memory(world, context.host.memory_bytes);
    moe::TransformerOptions options;
    options.type = moe::parse_compute_type(dtype_);
    options.max_batch_tokens = max_batch_tokens_;
    options.exchange = exchange_;
    options.exchange_rules = collectives::load_rules(world, selection_);
    if (phase_ == "decode") options.typical_tokens = (batch_ + world.size() - 1) / world.size();
    options.deadline = context.run.deadline;
    options.threads = threads_;
    const double start = wall_now().value;
    moe::Transformer model(moe::Checkpoint::random(c_, seed_), options, world);
    const double load_s = wall_now().value - start;

    for (int i = world.rank(); i < batch_; i += world.size()) {
      caches_.push_back(model.make_cache());
      caches_.back().reserve(kv_tokens_ + warmup_ + iterations_ + 1);
    }
    std::vector<Phase> phases;
    if (phase_ != "decode") phases.push_back(prefill(world, model));
    if (phase_ != "prefill") phases.push_back(decode(world, model));
    Json results{{"parameters", parameters()}, {"load_s", load_s}, {"ranks", world.size()}, {"phases", Json::array()}};
    std::string text = header(world, load_s);
    for (const Phase& phase : phases) {
      results["phases"].push_back(as_json(phase));
      text += as_text(phase);
    }
    report(context, "bench model", results, text);
    return static_cast<int>(ExitCode::good);
  }

 private:
  void check_sizes() {
    if (c_.n_routed_experts > 0 && c_.topk > c_.n_routed_experts)
      throw UsageError(fmt::format("--topk {} exceeds --experts {}", c_.topk, c_.n_routed_experts));
    if (c_.rope_dim % 2 != 0) throw UsageError(fmt::format("--rope: {} is not even", c_.rope_dim));
    c_.max_positions = kv_tokens_ + warmup_ + iterations_ + 1;
    c_.method = moe::GateMethod::greedy;
  }

  /// Refuses a model that a host's ranks cannot hold together, rather than wait for the system to run out of memory.
  /// Collective.
  void check_memory(const Communicator& world, std::uint64_t host_bytes) const {
    const double weights = moe::count_parameters(c_).bytes(moe::parse_compute_type(dtype_), 1.0 / world.size());
    const double caches = static_cast<double>(moe::kv_bytes_per_token(c_)) * c_.max_positions * batch_ / world.size();
    const int on_host = world.split_by_host().size();
    const double needed = on_host * (weights + caches);
    constexpr double gib = 1 << 30;
    collectively(world, [&] {
      if (needed > static_cast<double>(host_bytes))
        throw UsageError(fmt::format("weights and caches take {:.1f} GiB on a host with {} ranks, which has {:.1f} GiB",
                                     needed / gib, on_host, static_cast<double>(host_bytes) / gib));
    });
  }

  /// Weights of the model, embedding and head included.
  double parameters() const { return moe::count_parameters(c_).total(); }

  std::vector<std::int32_t> random_tokens(std::size_t count, std::uint64_t stream) const {
    Random random(seed_, stream);
    std::vector<std::int32_t> tokens(count);
    for (std::int32_t& token : tokens)
      token = static_cast<std::int32_t>(random.below(static_cast<std::uint64_t>(c_.vocab_size)));
    return tokens;
  }

  /// What a step computes.
  struct Step {
    std::size_t sequences = 0;  ///< of this rank, the first ones; no more than it has
    std::size_t tokens = 1;     ///< of each
    std::uint64_t stream = 0;   ///< of random numbers, from which the tokens are drawn
  };

  /// One step of all ranks. Returns the seconds of the slowest one. Collective.
  double run_step(const Communicator& world, moe::Transformer& model, const Step& step) {
    std::vector<std::vector<std::int32_t>> tokens;
    std::vector<moe::SequenceChunk> chunks;
    for (std::size_t i = 0; i < std::min(step.sequences, caches_.size()); ++i)
      tokens.push_back(random_tokens(step.tokens, mix64(step.stream) + i * static_cast<std::size_t>(world.size()) +
                                                      static_cast<std::size_t>(world.rank())));
    for (std::size_t i = 0; i < tokens.size(); ++i) chunks.push_back({&caches_[i], tokens[i]});
    world.barrier();
    model.forward(chunks);
    return world.max(model.last_step().total());
  }

  /// Likewise, and adds its times to `phase`.
  void time_step(const Communicator& world, moe::Transformer& model, const Step& step, Phase& phase) {
    phase.step_ms.push_back(run_step(world, model, step) * 1e3);
    for (std::size_t i = 0; i < operators.size(); ++i)
      phase.ms[i] += world.sum(model.last_step().*operators[i].seconds) * 1e3 / world.size();
  }

  /// Times the products of the recorded step; all ranks at once, as in the step.
  static void replay(const Communicator& world, moe::Transformer& model, int times, Phase& phase) {
    std::vector<double> seconds, library_seconds;
    double operations = 0;
    for (int i = 0; i < times; ++i) {
      world.barrier();
      const moe::ProductTimes products = model.replay_products();
      seconds.push_back(products.seconds);
      library_seconds.push_back(products.library_seconds);
      operations = products.operations;
      phase.implementations = products.implementations;
    }
    for (auto& [name, share] : phase.implementations) share /= operations;
    const double mine = summarize(seconds).p50;
    phase.gemm_ms = world.sum(mine) * 1e3 / world.size();
    phase.onednn_ms = world.sum(summarize(library_seconds).p50) * 1e3 / world.size();
    const double slowest = world.max(mine);
    phase.gemm_gflops = slowest > 0 ? world.sum(operations) / slowest / 1e9 : 0;
  }

  Phase prefill(const Communicator& world, moe::Transformer& model) {
    Phase phase;
    phase.name = "prefill";
    phase.tokens = static_cast<double>(batch_) * kv_tokens_;
    const auto count = static_cast<std::size_t>(kv_tokens_);
    run_step(world, model, {.sequences = 1, .tokens = count, .stream = 1});  // buffers grow to this length
    if (!caches_.empty()) caches_.front().truncate(0);
    model.record_products();
    time_step(world, model, {.sequences = caches_.size(), .tokens = count, .stream = 2}, phase);
    replay(world, model, 1, phase);
    return phase;
  }

  Phase decode(const Communicator& world, moe::Transformer& model) {
    Phase phase;
    phase.name = "decode";
    phase.tokens = batch_;
    for (moe::KvCache& cache : caches_)
      if (cache.length() == 0) fill(cache);
    const auto step = [&](std::uint64_t stream) { return Step{.sequences = caches_.size(), .stream = stream}; };
    for (int i = 0; i < warmup_; ++i) run_step(world, model, step(mix64(3) + static_cast<std::uint64_t>(i)));
    for (int i = 0; i < iterations_; ++i)
      time_step(world, model, step(mix64(4) + static_cast<std::uint64_t>(i)), phase);
    for (double& ms : phase.ms) ms /= iterations_;
    model.record_products();
    run_step(world, model, step(5));
    replay(world, model, std::max(3, iterations_ / 2), phase);
    return phase;
  }

  /// A context of kv_tokens without computing it.
  void fill(moe::KvCache& cache) const {
    cache.extend(kv_tokens_);
    Random random(seed_, 6);
    for (int token = 0; token < kv_tokens_; ++token)
      for (int layer = 0; layer < cache.n_layers(); ++layer)
        std::generate_n(cache.row(layer, token), cache.width(),
                        [&] { return static_cast<float>(2 * random.uniform() - 1); });
  }

  static Json as_json(const Phase& phase) {
    Json by_operator = Json::object();
    for (std::size_t i = 0; i < operators.size(); ++i) by_operator[operators[i].name] = phase.ms[i];
    const Summary steps = summarize(phase.step_ms);
    return {{"phase", phase.name},
            {"tokens", phase.tokens},
            {"tokens_per_s", phase.tokens / steps.p50 * 1e3},
            {"step_ms", to_json(steps)},
            {"operators_ms", by_operator},
            {"compute_ms", phase.compute_ms()},
            {"gemm_ms", phase.gemm_ms},
            {"gemm_GFLOPs", phase.gemm_gflops},
            {"gemm_share", phase.share(phase.gemm_ms)},
            {"onednn_ms", phase.onednn_ms},
            {"onednn_share", phase.share(phase.onednn_ms)},
            {"implementations", phase.implementations}};
  }

  std::string header(const Communicator& world, double load_s) const {
    return fmt::format(
        "# supernode bench model: {} ranks, {}, hidden {}, {} layers, {} experts of {} top-{}, {:.0f} M parameters, "
        "loaded in {:.1f} s\n"
        "# {} sequences over all ranks, {} tokens of context; times are means over ranks in ms\n"
        "# gemm: the step's matrix products alone, as the model computes them; onednn: the same products, all by "
        "oneDNN\n"
        "# (in f32 where it has no fast kernel for bf16 weights); shares: of the step without the exchange\n",
        world.size(), dtype_, c_.hidden_size, c_.n_layers, c_.n_routed_experts, c_.moe_intermediate_size, c_.topk,
        parameters() / 1e6, load_s, batch_, kv_tokens_);
  }

  static std::string as_text(const Phase& phase) {
    const Summary steps = summarize(phase.step_ms);
    std::string text = fmt::format(
        "{:<8} {:.1f} tokens/s, step {:.2f} ms (p50), gemm {:.2f} ms, {:.0f} GFLOP/s, share {:.1f} %, onednn {:.2f} "
        "ms, share {:.1f} %\n",
        phase.name, phase.tokens / steps.p50 * 1e3, steps.p50, phase.gemm_ms, phase.gemm_gflops,
        100 * phase.share(phase.gemm_ms), phase.onednn_ms, 100 * phase.share(phase.onednn_ms));
    for (std::size_t i = 0; i < operators.size(); ++i)
      text += fmt::format("  {:<10} {:>10.2f}\n", operators[i].name, phase.ms[i]);
    text += "  products by";
    for (const auto& [name, share] : phase.implementations) text += fmt::format(" {} {:.1f} %", name, 100 * share);
    text += "\n";
    return text;
  }

  /// Sizes that a laptop holds; method and limit on positions are set before use.
  moe::ModelConfig c_ = [] {
    moe::ModelConfig c;
    c.vocab_size = 1024;
    c.hidden_size = 1024;
    c.n_layers = 8;
    c.first_dense_layers = 1;
    c.intermediate_size = 2048;
    c.n_routed_experts = 64;
    c.n_shared_experts = 1;
    c.topk = 8;
    c.moe_intermediate_size = 512;
    c.n_heads = 16;
    c.q_lora_rank = 512;
    c.kv_lora_rank = 256;
    c.nope_dim = 64;
    c.rope_dim = 32;
    c.v_dim = 64;
    return c;
  }();
  int batch_ = 32, kv_tokens_ = 512, max_batch_tokens_ = 256, threads_ = 1, iterations_ = 10, warmup_ = 2;
  std::uint64_t seed_ = 1;
  std::string phase_ = "both", dtype_ = "f32", exchange_ = "auto";
  collectives::SelectionOptions selection_;
  std::vector<moe::KvCache> caches_;  ///< this rank's sequences
};

}  // namespace

std::unique_ptr<Command> make_bench_model() { return std::make_unique<BenchModelCommand>(); }

}  // namespace supernode::launch
