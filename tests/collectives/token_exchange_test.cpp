// Every algorithm against the serial reference, and against the others to the bit.
#include "collectives/token_exchange.hpp"

#include <array>
#include <chrono>
#include <set>
#include <thread>

#include "collectives/algorithms.hpp"
#include "collectives/algorithms/algorithm.hpp"
#include "collectives/algorithms/find_hosts.hpp"
#include "collectives/algorithms/table.hpp"
#include "collectives/traffic/routing.hpp"
#include "runtime/core/error.hpp"
#include "runtime/core/random.hpp"
#include "tests/collectives/reference.hpp"
#include "tests/support/mpi_fixture.hpp"

using namespace supernode;
using namespace supernode::collectives;
using namespace supernode::test;
using Catch::Matchers::Contains;

namespace {

constexpr int topk = 4, n_experts = 11, max_tokens = 128;

/// The tokens of all ranks: every rank makes the same, so the reference needs no communication.
std::vector<RankTokens> make_tokens(const std::string& pattern, int n_tokens, int hidden, int ranks, int seed,
                                    int experts = n_experts) {
  std::vector<RankTokens> all(ranks);
  RoutingConfig routing{
      .zipf_alpha = 1.2, .hot_experts = 2, .hot_fraction = 0.9, .seed = static_cast<std::uint64_t>(seed)};
  if (pattern == "zipf" || pattern == "k_hot") routing.pattern = pattern;
  for (int rank = 0; rank < ranks; ++rank) {
    RankTokens& mine = all[rank];
    mine.n_tokens = pattern == "ragged" ? (rank % 2 == 0 ? 0 : std::max(0, n_tokens - rank)) : n_tokens;
    mine.rows.resize(static_cast<std::size_t>(mine.n_tokens) * hidden);
    mine.expert_ids.resize(static_cast<std::size_t>(mine.n_tokens) * topk);
    mine.weights.resize(mine.expert_ids.size());
    Random random(seed, 1000 + rank);
    for (float& x : mine.rows) x = static_cast<float>(random.uniform() * 2 - 1);
    route_tokens(routing, experts, rank, topk, mine.expert_ids, mine.weights);
    for (std::int32_t& id : mine.expert_ids) {
      if (pattern == "all_to_one") id = experts - 1;
      if (pattern == "sparse" && random.below(3) != 0) id = -1;
      if (pattern == "nobody") id = -1;
    }
    if (pattern == "all_to_one")  // one place for the expert, the others empty
      for (std::size_t i = 0; i < mine.expert_ids.size(); ++i)
        if (i % topk != 0) mine.expert_ids[i] = -1;
  }
  return all;
}

/// The handle against the reference; `values` also compares the rows.
void check_handle(const DispatchedTokens& tokens, const std::vector<RankTokens>& all, const TokenExchange& exchange) {
  const ExchangeConfig& config = exchange.config();
  const ExpertPartition& experts = exchange.experts();
  const int rank = world().rank();
  const auto expected = expected_rows(all, rank, config.hidden, topk, experts, config.dispatch_payload);
  bool same = tokens.n_rows() == static_cast<int>(expected.size());
  std::vector<float> row(config.hidden);
  for (int i = 0; same && i < tokens.n_rows(); ++i) {
    tokens.copy_row_f32(i, row);
    same = same && row == expected[i].values && i >= tokens.first_row_of(expected[i].source) &&
           i < tokens.first_row_of(expected[i].source + 1);
  }
  CHECK(same);
  CHECK(tokens.n_local_experts() == experts.count(rank));
  for (int e = 0; same && e < tokens.n_local_experts(); ++e) {
    std::vector<std::int32_t> rows;
    std::vector<float> weights;
    for (int i = 0; i < tokens.n_rows(); ++i)
      for (int k = 0; k < topk; ++k) {
        const RankTokens& source = all[expected[i].source];
        if (source.expert_ids[expected[i].token * topk + k] != experts.first(rank) + e) continue;
        rows.push_back(i);
        weights.push_back(source.weights[expected[i].token * topk + k]);
      }
    const auto got_rows = tokens.expert_rows(e);
    const auto got_weights = tokens.expert_weights(e);
    CHECK(std::vector<std::int32_t>(got_rows.begin(), got_rows.end()) == rows);
    CHECK(std::vector<float>(got_weights.begin(), got_weights.end()) == weights);
  }
}

/// What the experts of this rank make of the rows, experts in ascending order.
std::vector<float> run_experts(const DispatchedTokens& tokens, const TokenExchange& exchange) {
  const int hidden = exchange.config().hidden;
  std::vector<float> rows(static_cast<std::size_t>(tokens.n_rows()) * hidden), sums(rows.size(), 0.0f);
  tokens.copy_rows_f32(rows);
  for (int e = 0; e < tokens.n_local_experts(); ++e)
    for (std::size_t i = 0; i < tokens.expert_rows(e).size(); ++i) {
      const std::size_t at = static_cast<std::size_t>(tokens.expert_rows(e)[i]) * hidden;
      for (int j = 0; j < hidden; ++j)
        sums[at + j] +=
            tokens.expert_weights(e)[i] * expert_output(exchange.experts().first(world().rank()) + e, rows[at + j]);
    }
  return sums;
}

ExchangeConfig small_config(const std::string& algorithm, int hidden = 37) {
  return {.max_tokens = max_tokens, .hidden = hidden, .topk = topk, .num_experts = n_experts, .algorithm = algorithm};
}

/// An algorithm, on the ranks as they are and as if they stood on several hosts.
struct Variant {
  std::string algorithm;
  int hosts;
};
std::vector<Variant> all_variants() {
  std::vector<Variant> variants;
  for (const AlgorithmName& entry : algorithms()) {
    const bool sees_hosts = entry.name == "direct" || entry.name == "hierarchical" || entry.name == "pull";
    for (const int hosts : {1, 2, 3})
      if (hosts == 1 || (sees_hosts && hosts <= world().size())) variants.push_back({std::string(entry.name), hosts});
  }
  return variants;
}
ExchangeConfig small_config(const Variant& variant, int hidden = 37) {
  ExchangeConfig config = small_config(variant.algorithm, hidden);
  config.fake_hosts = variant.hosts;
  return config;
}

void short_delay(Random& random) {
  if (random.below(4) == 0) std::this_thread::sleep_for(std::chrono::microseconds(random.below(2000)));
}

}  // namespace

TEST_CASE("every algorithm, payload, pattern and size agrees with the reference, to the bit") {
  const std::vector<std::string> patterns = {"uniform", "zipf", "k_hot", "all_to_one", "sparse", "nobody", "ragged"};
  for (const Variant& variant : all_variants())
    for (const Payload there : {Payload::int8, Payload::bf16, Payload::f32})
      for (const Payload back : {Payload::bf16, Payload::f32}) {
        ExchangeConfig config = small_config(variant);
        config.dispatch_payload = there;
        config.combine_payload = back;
        TokenExchange exchange(world(), config);
        REQUIRE(exchange.algorithm() == variant.algorithm);
        REQUIRE(find_hosts(world(), variant.hosts).hosts() == variant.hosts);
        for (const std::string& pattern : patterns)
          for (const int n_tokens : {0, 1, 7, 128}) {
            CAPTURE(variant.algorithm, variant.hosts, name_of(there), name_of(back), pattern, n_tokens);
            const auto all = make_tokens(pattern, n_tokens, config.hidden, world().size(), n_tokens + 1);
            const RankTokens& mine = all[world().rank()];
            DispatchedTokens tokens = exchange.dispatch(mine.rows, mine.expert_ids, mine.weights);
            check_handle(tokens, all, exchange);
            const std::vector<float> sums = run_experts(tokens, exchange);
            std::vector<float> out(mine.rows.size(), -1.0f);
            exchange.combine(std::move(tokens), sums, out);
            CHECK(out == expected_out(mine, config.hidden, topk, exchange.experts(), there, back));
          }
      }
}

TEST_CASE("ranks may hold no expert, and widths need not fill vectors or lines") {
  for (const Variant& variant : all_variants())
    for (const int experts : {1, 2, 3, 64})
      for (const int hidden : {1, 64, 200}) {
        ExchangeConfig config = small_config(variant, hidden);
        config.num_experts = experts;
        TokenExchange exchange(world(), config);
        const std::string pattern = experts < topk ? "all_to_one" : "uniform";
        std::vector<RankTokens> all = make_tokens(pattern, 9, hidden, world().size(), 5, std::max(experts, topk));
        for (RankTokens& tokens : all)
          for (std::int32_t& id : tokens.expert_ids) id = std::min(id, experts - 1);
        const RankTokens& mine = all[world().rank()];
        DispatchedTokens tokens = exchange.dispatch(mine.rows, mine.expert_ids, mine.weights);
        check_handle(tokens, all, exchange);
        const std::vector<float> sums = run_experts(tokens, exchange);
        std::vector<float> out(mine.rows.size());
        exchange.combine(std::move(tokens), sums, out);
        CHECK(out == expected_out(mine, hidden, topk, exchange.experts(), Payload::f32, Payload::f32));
      }
}

TEST_CASE("messages larger than the cache arrive too") {
  const int hidden = 65536 / world().size();
  for (const Variant& variant : all_variants()) {
    if (variant.hosts > 1) continue;
    TokenExchange exchange(world(), small_config(variant, hidden));
    const auto all = make_tokens("uniform", max_tokens, hidden, world().size(), 1);
    const RankTokens& mine = all[world().rank()];
    DispatchedTokens tokens = exchange.dispatch(mine.rows, mine.expert_ids, mine.weights);
    // Rows go back as they came, so that a token returns as often as ranks have it.
    std::vector<float> sums(static_cast<std::size_t>(tokens.n_rows()) * hidden), out(mine.rows.size());
    tokens.copy_rows_f32(sums);
    exchange.combine(std::move(tokens), sums, out);
    long long wrong = 0;
    for (int token = 0; token < mine.n_tokens; ++token) {
      std::set<int> ranks;
      for (int k = 0; k < topk; ++k) ranks.insert(exchange.experts().rank_of(mine.expert_ids[token * topk + k]));
      for (std::size_t i = static_cast<std::size_t>(token) * hidden, end = i + hidden; i < end; ++i) {
        float expected = 0;
        for (std::size_t n = 0; n < ranks.size(); ++n) expected += mine.rows[i];
        wrong += out[i] != expected;
      }
    }
    CHECK(wrong == 0);
  }
}

TEST_CASE("many rounds with ranks out of step reuse their slots safely") {
  for (const Variant& variant : all_variants()) {
    TokenExchange exchange(world(), small_config(variant));
    Random random(99, static_cast<std::uint64_t>(world().rank()));
    int wrong = 0;
    for (int round = 0; round < 60; ++round) {
      const char* patterns[] = {"uniform", "ragged", "all_to_one", "sparse", "nobody"};
      const auto all = make_tokens(patterns[round % 5], round % 17, 37, world().size(), round);
      const RankTokens& mine = all[world().rank()];
      short_delay(random);
      DispatchedTokens tokens = exchange.dispatch(mine.rows, mine.expert_ids, mine.weights);
      short_delay(random);
      const std::vector<float> sums = run_experts(tokens, exchange);
      std::vector<float> out(mine.rows.size());
      short_delay(random);
      exchange.combine(std::move(tokens), sums, out);
      wrong += out != expected_out(mine, 37, topk, exchange.experts(), Payload::f32, Payload::f32);
    }
    CHECK(wrong == 0);
  }
}

TEST_CASE("two rounds in flight do not disturb each other") {
  for (const Variant& variant : all_variants()) {
    TokenExchange exchange(world(), small_config(variant));
    Random random(7, static_cast<std::uint64_t>(world().rank()));
    int wrong = 0;
    DispatchedTokens before;
    std::vector<float> sums_before;
    std::vector<RankTokens> all_before;
    for (int round = 0; round < 40; ++round) {
      auto all = make_tokens("uniform", 5 + round % 3, 37, world().size(), round);
      const RankTokens& mine = all[world().rank()];
      short_delay(random);
      // The dispatch of this round overlaps the combine of the one before.
      exchange.dispatch_begin(mine.rows, mine.expert_ids, mine.weights);
      if (round > 0) exchange.combine_begin(std::move(before), sums_before);
      short_delay(random);
      DispatchedTokens tokens = exchange.dispatch_end();
      const std::vector<float> sums = run_experts(tokens, exchange);
      if (round > 0) {
        std::vector<float> out(all_before[world().rank()].rows.size());
        exchange.combine_end(out);
        wrong +=
            out != expected_out(all_before[world().rank()], 37, topk, exchange.experts(), Payload::f32, Payload::f32);
      }
      before = std::move(tokens);
      sums_before = sums;
      all_before = std::move(all);
    }
    std::vector<float> out(all_before[world().rank()].rows.size());
    exchange.combine(std::move(before), sums_before, out);
    wrong += out != expected_out(all_before[world().rank()], 37, topk, exchange.experts(), Payload::f32, Payload::f32);
    CHECK(wrong == 0);
  }
}

TEST_CASE("statistics have the rows of each pair of ranks") {
  // Three tokens of each rank go to expert 0, and the second of them to the last expert too: to rank 0 three rows, to
  // the last rank one more where it is another.
  const int last = world().size() - 1, self = world().rank();
  for (const Variant& variant : all_variants()) {
    const ExchangeConfig config = small_config(variant);
    TokenExchange exchange(world(), config);
    const std::vector<float> rows(3 * 37, 1.0f), weights(3 * topk, 0.5f);
    std::vector<std::int32_t> ids(3 * topk, -1);
    ids[0] = ids[topk] = ids[2 * topk] = 0;
    ids[topk + 1] = n_experts - 1;
    DispatchedTokens tokens = exchange.dispatch(rows, ids, weights);
    const ExchangeStatistics& statistics = exchange.statistics();
    for (int rank = 0; rank <= last; ++rank) {
      const auto rows_of = [&](int to) { return to == 0 ? 3 : to == last ? 1 : 0; };
      CHECK(statistics.rows_to(Phase::dispatch)[rank] == rows_of(rank));
      CHECK(statistics.rows_from(Phase::dispatch)[rank] == rows_of(self));
      CHECK(statistics.rows_to(Phase::combine)[rank] == rows_of(self));
      CHECK(statistics.rows_from(Phase::combine)[rank] == rows_of(rank));
    }
    const std::vector<float> sums = run_experts(tokens, exchange);
    std::vector<float> out(rows.size());
    exchange.combine(std::move(tokens), sums, out);
    CHECK(statistics.dispatch_s > 0);
    CHECK(statistics.combine_s > 0);
  }
}

TEST_CASE("buffers are as large as was announced") {
  for (const Variant& variant : all_variants())
    for (const auto& [tokens, hidden, k, experts] : {std::array{1, 1, 1, 1}, {7, 100, 3, 5}, {64, 256, 8, 64}})
      for (const Payload back : {Payload::bf16, Payload::f32}) {
        CAPTURE(variant.algorithm, variant.hosts, tokens, hidden, k, experts);
        ExchangeConfig config{.max_tokens = tokens,
                              .hidden = hidden,
                              .topk = k,
                              .num_experts = experts,
                              .dispatch_payload = Payload::int8,
                              .combine_payload = back,
                              .algorithm = variant.algorithm,
                              .fake_hosts = variant.hosts};
        const TokenExchange exchange(world(), config);
        const HostMap hosts = HostMap::blocks(world().size(), variant.hosts);
        const ExchangeSetup setup(config, world().rank(), hosts);
        CHECK(exchange.buffer_bytes() ==
              find_algorithm(variant.algorithm).plan(setup).bytes() + n_round_sets * Round::bytes(setup));
        CHECK(world().max(static_cast<long long>(exchange.buffer_bytes())) ==
              static_cast<long long>(exchange_buffer_bytes(config, world().size(), variant.hosts)));
      }
}

TEST_CASE("windows that MPI refuses are refused by name") {
  const WindowSupport messages_only{.shared = false, .remote = false}, within_hosts{.shared = true, .remote = false};
  CHECK_NOTHROW(require_windows(find_algorithm("pairwise"), 2, messages_only));
  CHECK_NOTHROW(require_windows(find_algorithm("direct"), 1, within_hosts));
  CHECK_THROWS_WITH(require_windows(find_algorithm("pull"), 1, messages_only),
                    Contains("exchange algorithm 'pull' needs memory that the ranks of a host share "
                             "(MPI_Win_allocate_shared), which this MPI refuses") &&
                        Contains("works here: auto, alltoallv, pairwise, bruck"));
  CHECK_THROWS_WITH(
      require_windows(find_algorithm("direct"), 2, within_hosts),
      Contains("MPI_Win_create") && Contains("works here: auto, alltoallv, pairwise, bruck, hierarchical"));
  // Here everything works, as on the sites that chose no component.
  const HostMap hosts = find_hosts(world(), 2);
  CHECK(hosts.hosts() == std::min(2, world().size()));
  const WindowSupport here = probe_windows(world(), hosts);
  CHECK(here.shared);
  CHECK(here.remote);
  CHECK(available_algorithms(world(), 2).working.size() == algorithms().size());
  CHECK(available_algorithms(world(), 2).left_out.empty());
}

TEST_CASE("wrong configurations are refused on all ranks alike") {
  const auto refused = [](auto&& change, const std::string& text) {
    ExchangeConfig config = small_config("auto");
    change(config);
    CHECK_THROWS_WITH(TokenExchange(world(), config), Contains(text));
    CHECK_THROWS_AS(TokenExchange(world(), config), UsageError);
  };
  refused([](ExchangeConfig& c) { c.algorithm = "carrier_pigeon"; }, "known: auto, alltoallv, pairwise, bruck, direct");
  refused([](ExchangeConfig& c) { c.max_tokens = 0; }, "max_tokens 0 must be > 0");
  refused([](ExchangeConfig& c) { c.hidden = -1; }, "hidden");
  refused([](ExchangeConfig& c) { c.topk = 0; }, "topk");
  refused([](ExchangeConfig& c) { c.num_experts = 0; }, "num_experts");
  refused([](ExchangeConfig& c) { c.combine_payload = Payload::int8; }, "combine payload int8");
  refused([](ExchangeConfig& c) { c.deadline_s = 0; }, "deadline");
  CHECK_THROWS_WITH(parse_payload("fp4"), "payload 'fp4' unknown; known: int8, bf16, f32");
}

TEST_CASE("a silent peer is named when the deadline passes") {
  // Each variant waits for a second: who is silent does not depend on how many others there are.
  if (world().size() < 2 || world().size() > 3) return;
  for (const Variant& variant : all_variants()) {
    ExchangeConfig config = small_config(variant);
    config.deadline_s = 0.15;
    TokenExchange exchange(world(), config);
    // The last rank stays away; the others must not hang, also not in their destructors.
    const int silent = world().size() - 1;
    if (world().rank() != silent) {
      const auto all = make_tokens("uniform", 4, 37, world().size(), 1);
      const RankTokens& mine = all[world().rank()];
      std::string text;
      try {
        exchange.dispatch(mine.rows, mine.expert_ids, mine.weights);
      } catch (const TimeoutError& error) {
        text = error.what();
      }
      CHECK_THAT(text, Contains("rank " + std::to_string(world().rank()) + ":"));
      // Whoever it was that this rank waited for, it learns who waits for nobody.
      CHECK_THAT(text, Contains("; silent: rank " + std::to_string(silent)));
      if (variant.algorithm == "direct" || variant.algorithm == "pairwise" || variant.algorithm == "pull")
        CHECK_THAT(text, Contains("from rank " + std::to_string(silent)));
    }
    world().barrier();
    // The peers gave their exchange up; so does this rank, without the collective destructor.
    if (world().rank() == silent) new TokenExchange(std::move(exchange));
  }
}
