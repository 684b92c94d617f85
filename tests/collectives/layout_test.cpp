// Who sends what to whom, for every world size up to 64, without MPI.
#include "collectives/rows/layout.hpp"

#include <algorithm>
#include <set>

#include "collectives/algorithms.hpp"
#include "collectives/algorithms/bundle.hpp"
#include "collectives/algorithms/choice.hpp"
#include "collectives/rows/host_map.hpp"
#include "collectives/rows/ring.hpp"
#include "collectives/rows/send_plan.hpp"
#include "collectives/rule_file.hpp"
#include "collectives/traffic/routing.hpp"
#include "tests/support/catch.hpp"

using namespace supernode::collectives;

TEST_CASE("every expert has one rank, blocks are contiguous and differ by one at most") {
  for (int ranks = 1; ranks <= 64; ++ranks)
    for (const int n : {1, 2, 7, 63, 64, 65, 256}) {
      const ExpertPartition experts(n, ranks);
      int next = 0;
      for (int rank = 0; rank < ranks; ++rank) {
        REQUIRE(experts.first(rank) == next);
        REQUIRE(experts.count(rank) >= n / ranks);
        REQUIRE(experts.count(rank) <= experts.max_count());
        for (int i = 0; i < experts.count(rank); ++i) REQUIRE(experts.rank_of(next++) == rank);
      }
      REQUIRE(next == n);
      REQUIRE(experts.first(ranks) == n);
    }
}

TEST_CASE("rows and routing records of a message do not overlap, rows are aligned, the message is whole lines") {
  for (const Payload payload : {Payload::int8, Payload::bf16, Payload::f32})
    for (const int hidden : {1, 3, 64, 7168})
      for (const int topk : {1, 8}) {
        const DispatchLayout layout(payload, hidden, topk);
        CHECK(layout.bytes(0) == 0);
        for (const int n : {1, 2, 9, 128}) {
          CHECK(layout.routing_offset(1) >= sizeof(RoutingHead) + topk * sizeof(RoutingPlace));
          CHECK(layout.row_offset(n, 0) >= layout.routing_offset(n));
          for (int row = 0; row < n; ++row) {
            REQUIRE(layout.row_offset(n, row) % line_bytes == 0);
            REQUIRE(layout.row_offset(n, row) + element_bytes(payload) * hidden <=
                    (row + 1 < n ? layout.row_offset(n, row + 1) : layout.bytes(n)));
          }
          CHECK(layout.bytes(n) % line_bytes == 0);
          CHECK(layout.bytes(n) <= layout.bytes(static_cast<std::size_t>(n), 1));
          CHECK(CombineLayout(payload, hidden).bytes(n) == n * CombineLayout(payload, hidden).row_stride());
        }
      }
}

TEST_CASE("a dispatched row is padded to what its messages must have at least") {
  CHECK(DispatchLayout(Payload::int8, 7168, 8, 7680).row_stride() == 7680);
  CHECK(DispatchLayout(Payload::int8, 100, 8, 1000).row_stride() == 1024);
  CHECK(DispatchLayout(Payload::bf16, 7168, 8, 7680).row_stride() == 14336);
  const ExchangeConfig config{
      .max_tokens = 4, .hidden = 7168, .topk = 1, .dispatch_payload = Payload::int8, .least_dispatch_row_bytes = 7680};
  CHECK(row_bytes(config, supernode::Phase::dispatch) == 7680);
  CHECK(message_bytes(config, supernode::Phase::dispatch, 4) == 4 * (16 + 7680));
  CHECK(row_bytes(config, supernode::Phase::combine) == 4 * 7168);
}

TEST_CASE("a plan sends each token once to each rank that holds one of its experts, ascending") {
  constexpr int n_tokens = 33, topk = 4, n_experts = 70;
  std::vector<std::int32_t> ids(n_tokens * topk);
  std::vector<float> weights(ids.size());
  route_tokens({.seed = 7}, n_experts, 0, topk, ids, weights);
  for (std::size_t i = 0; i < ids.size(); i += 5) ids[i] = -1;
  for (int k = 0; k < topk; ++k) ids[2 * topk + k] = -1;
  for (int ranks = 1; ranks <= 64; ++ranks) {
    const ExpertPartition experts(n_experts, ranks);
    SendPlan plan(experts, topk, 40);
    for (const int n : {n_tokens, 0, 1, n_tokens}) {  // a plan is used again
      plan.build(std::span(ids).first(static_cast<std::size_t>(n) * topk));
      REQUIRE(plan.n_tokens() == n);
      std::vector<int> next(ranks, 0);
      int total = 0;
      for (int token = 0; token < n; ++token) {
        std::set<int> wanted;
        for (int k = 0; k < topk; ++k)
          if (ids[token * topk + k] >= 0) wanted.insert(experts.rank_of(ids[token * topk + k]));
        std::vector<int> got;
        for (const Send send : plan.sends_of(token)) {
          got.push_back(send.rank);
          REQUIRE(send.index == next[send.rank]++);
        }
        REQUIRE(got == std::vector<int>(wanted.begin(), wanted.end()));
        total += static_cast<int>(got.size());
      }
      for (int rank = 0; rank < ranks; ++rank) REQUIRE(plan.rows_to(rank) == next[rank]);
      REQUIRE(plan.n_rows() == total);
    }
  }
}

TEST_CASE("hosts divide the ranks, and each rank has one gateway on every host") {
  for (int ranks = 1; ranks <= 64; ++ranks)
    for (const int hosts : {1, 2, 3, 5, 8}) {
      if (hosts > ranks) continue;
      std::vector<int> scattered(ranks);
      for (int rank = 0; rank < ranks; ++rank) scattered[rank] = 100 - (rank * 7 + rank / 3) % hosts;
      for (const HostMap& map : {HostMap::blocks(ranks, hosts), HostMap(scattered)}) {
        REQUIRE(map.ranks() == ranks);
        REQUIRE(map.hosts() <= hosts);
        std::vector<int> seen(ranks, 0);
        for (int host = 0; host < map.hosts(); ++host) {
          REQUIRE(map.n_members(host) > 0);
          for (int member = 0; member < map.n_members(host); ++member) {
            const int rank = map.members(host)[member];
            ++seen[rank];
            REQUIRE(map.host_of(rank) == host);
            REQUIRE(map.member_of(rank) == member);
            REQUIRE((member == 0 || map.members(host)[member - 1] < rank));
          }
          // What one host sends to another is spread over the other's members.
          for (int from = 0; from < map.hosts(); ++from) {
            std::vector<int> served(ranks, 0);
            for (const int source : map.members(from)) {
              const int gateway = map.gateway(source, host);
              REQUIRE(map.host_of(gateway) == host);
              REQUIRE((from != host || gateway == source));
              ++served[gateway];
            }
            const int share = (map.n_members(from) + map.n_members(host) - 1) / map.n_members(host);
            REQUIRE(*std::max_element(served.begin(), served.end()) <= share);
          }
        }
        REQUIRE(seen == std::vector<int>(ranks, 1));
      }
    }
  const HostMap even = HostMap::blocks(7, 3);
  CHECK(even.n_members(0) == 3);
  CHECK(even.n_members(1) == 2);
  CHECK(even.gateway(2, 1) == 3);
}

TEST_CASE("a ring turns to every peer once, and no two ranks to the same one") {
  for (int n = 1; n <= 16; ++n) {
    std::vector<std::vector<int>> order(n);
    for (int self = 0; self < n; ++self) for_others(self, n, [&](int peer) { order[self].push_back(peer); });
    for (int self = 0; self < n; ++self) {
      std::set<int> peers(order[self].begin(), order[self].end());
      CHECK(order[self].size() == static_cast<std::size_t>(n - 1));
      CHECK(peers.size() == static_cast<std::size_t>(n - 1));
      CHECK(peers.count(self) == 0);
    }
    for (int step = 0; step + 1 < n; ++step) {
      std::set<int> met;
      for (int self = 0; self < n; ++self) met.insert(order[self][step]);
      CHECK(met.size() == static_cast<std::size_t>(n));
    }
  }
}

TEST_CASE("bytes of messages are whole lines of rows and routing") {
  const ExchangeConfig config{.max_tokens = 8,
                              .hidden = 100,
                              .topk = 2,
                              .num_experts = 4,
                              .dispatch_payload = Payload::int8,
                              .combine_payload = Payload::bf16};
  using supernode::Phase;
  CHECK(message_bytes(config, supernode::Phase::dispatch, 0) == 0);
  CHECK(message_bytes(config, supernode::Phase::dispatch, 3) ==
        128 + 3 * 128);  // records of 8 + 2 * 8, rows of 100 bytes
  CHECK(message_bytes(config, supernode::Phase::combine, 3) == 3 * 256);
}

TEST_CASE("bundles bring every row once to a host, and each member its own") {
  constexpr int n_tokens = 9, topk = 3, n_experts = 70, hidden = 5;
  const ExchangeConfig config{.max_tokens = 10, .hidden = hidden, .topk = topk, .num_experts = n_experts};
  std::vector<std::int32_t> ids(n_tokens * topk);
  std::vector<float> weights(ids.size()), rows(n_tokens * hidden);
  route_tokens({.seed = 3}, n_experts, 0, topk, ids, weights);
  for (std::size_t i = 0; i < ids.size(); i += 4) ids[i] = -1;
  for (std::size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<float>(i);
  for (int ranks = 1; ranks <= 64; ranks += ranks < 9 ? 1 : 11)
    for (int hosts = 1; hosts <= std::min(ranks, 5); ++hosts) {
      const HostMap map = HostMap::blocks(ranks, hosts);
      const ExchangeSetup sender(config, 0, map);
      SendPlan plan(sender.experts, topk, config.max_tokens);
      plan.build(ids);
      const BundleLayout layout(sender.dispatch);
      std::vector<std::vector<Send>> bundles;  // memory aligned for counts, indices and floats
      std::vector<RowStream> streams(hosts);
      std::vector<RowTarget> targets(ranks);
      for (int host = 0; host < hosts; ++host) {
        bundles.emplace_back(layout.most_bytes(config.max_tokens, map.n_members(host)) / sizeof(Send));
        begin_bundle(sender, plan, host, reinterpret_cast<std::byte*>(bundles[host].data()), streams[host], targets);
      }
      write_rows(sender, plan, {rows, ids, weights}, targets, supernode::Stores::ordinary);
      for (int host = 0; host < hosts; ++host) {
        std::set<int> wanted;
        for (int token = 0; token < n_tokens; ++token)
          for (const Send send : plan.sends_of(token))
            if (map.host_of(send.rank) == host) wanted.insert(token);
        REQUIRE(streams[host].n_rows == static_cast<int>(wanted.size()));
        REQUIRE(bundle_end(sender, streams[host]) <=
                reinterpret_cast<std::byte*>(bundles[host].data() + bundles[host].size()));
      }
      for (int rank = 0; rank < ranks; ++rank) {
        const ExchangeSetup setup(config, rank, map);
        Round round(setup, 0);
        read_bundle(round, 0, reinterpret_cast<const std::byte*>(bundles[map.host_of(rank)].data()));
        REQUIRE(round.rows_from[0] == plan.rows_to(rank));
        round.index_rows();
        int row = 0;
        for (int token = 0; token < n_tokens; ++token)
          for (const Send send : plan.sends_of(token))
            if (send.rank == rank)
              REQUIRE(reinterpret_cast<const float*>(round.row[row++])[0] == static_cast<float>(token * hidden));
        REQUIRE(row == round.n_rows());
      }
    }
}

TEST_CASE("buffers grow with the worst case, and stay known beforehand") {
  ExchangeConfig config{.max_tokens = 128, .hidden = 1024, .topk = 8, .num_experts = 256};
  for (const auto& entry : algorithms()) {
    config.algorithm = entry.name;
    const std::size_t one = exchange_buffer_bytes(config, 1), many = exchange_buffer_bytes(config, 64);
    CHECK(many > one);
    // Both directions, two rounds, 64 ranks with 128 rows of 4 KiB each. Those who read where the rows were written
    // keep only what goes out there.
    const bool in_place = entry.name == "pull" || entry.name == "hierarchical";
    CHECK(many >= (in_place ? 1u : 2u) * 2 * 64 * 128 * 4096);
    // bruck keeps what each of its six steps receives, half of everything.
    CHECK(many <= 2u * 2 * 64 * 128 * 4096 * (entry.name == "bruck" ? 16 : 5) / 4);
    CHECK(exchange_buffer_bytes(config, 64, 4) <= 2u * 2 * 64 * 128 * 4096 * (entry.name == "bruck" ? 16 : 8) / 4);
    CHECK(exchange_buffer_bytes(config, 2, 4) == exchange_buffer_bytes(config, 2, 2));
  }
  // auto: whatever its rules may take among these ranks.
  const auto bytes_of = [&](const char* name, const char* rules = nullptr) {
    config.algorithm = name;
    config.rules = rules ? std::make_shared<const SelectionRules>(known_rules(rules, "test")) : nullptr;
    return exchange_buffer_bytes(config, 64);
  };
  CHECK(bytes_of("auto", "1 * * * direct") == std::max(bytes_of("direct"), bytes_of("alltoallv")));
  CHECK(bytes_of("auto", "1 64 * * bruck") == std::max(bytes_of("bruck"), bytes_of("alltoallv")));
  CHECK(bytes_of("auto", "1 8 * * bruck\n65: * * * bruck\n* * :1K * bruck") == bytes_of("alltoallv"));
}

TEST_CASE("an algorithm is chosen by name or by shape") {
  ExchangeConfig config{.max_tokens = 1, .hidden = 1, .topk = 1, .num_experts = 1};
  CHECK(select_algorithm(config, {4, 1}).algorithm.name == "pull");
  CHECK(select_algorithm(config, {4, 2}).algorithm.name == "hierarchical");
  // The rules that ship have one for sites whose MPI refuses shared memory.
  CHECK(select_algorithm(config, {4, 1, {.shared = false}}).algorithm.name == "pairwise");
  CHECK(select_algorithm(config, {4, 2, {.shared = false}}).algorithm.name == "pairwise");
  CHECK(select_algorithm(config, {4, 2, {.remote = false}}).algorithm.name == "hierarchical");
  config.algorithm = "alltoallw";
  CHECK_THROWS_WITH(select_algorithm(config, {4, 1}),
                    "exchange algorithm 'alltoallw' unknown; known: auto, alltoallv, pairwise, bruck, direct, "
                    "hierarchical, pull");
}

TEST_CASE("auto takes the first rule that fits and works") {
  ExchangeConfig config{
      .max_tokens = 100, .hidden = 1024, .topk = 1, .num_experts = 8, .dispatch_payload = Payload::int8};
  config.rules = std::make_shared<const SelectionRules>(known_rules(R"(
# hosts ranks bytes skew algorithm
1       :8    :64K  *    direct
*       :8    :64K  *    bruck   # among hosts
*       *     *     2:   pairwise
)",
                                                                    "site.rules"));
  const auto chosen = [&](int ranks, int hosts) {
    const Selection selection = select_algorithm(config, {ranks, hosts});
    return std::string(selection.algorithm.name) + " by " + selection.rule;
  };
  CHECK(chosen(8, 1) == "alltoallv by site.rules: no rule");
  config.typical_skew = 2;
  CHECK(chosen(8, 1) == "pairwise by site.rules:5");
  config.typical_tokens = 64;
  CHECK(chosen(8, 1) == "direct by site.rules:3");
  CHECK(chosen(8, 2) == "bruck by site.rules:4");
  CHECK(chosen(9, 1) == "pairwise by site.rules:5");
  const Selection other = select_algorithm(config, {8, 1, {.shared = false}});
  CHECK(other.algorithm.name == "bruck");
  CHECK(other.rule == "site.rules:4");
  config.algorithm = "pairwise";
  CHECK(select_algorithm(config, {8, 1}).rule.empty());
}
