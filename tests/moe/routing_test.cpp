// How many rows a step sends to each expert: against what the gates chose, and against what the exchange moved.
#include <numeric>

#include <mpi.h>

#include "collectives/expert_partition.hpp"
#include "collectives/token_exchange.hpp"
#include "moe/checkpoint.hpp"
#include "moe/model/step_runner.hpp"
#include "moe/products/kept_keys.hpp"
#include "moe/transformer.hpp"
#include "runtime/core/mpi/mpi_call.hpp"
#include "tests/moe/changed_model.hpp"
#include "tests/moe/forced.hpp"
#include "tests/support/mpi_fixture.hpp"
#include "tests/support/shared_folder.hpp"

namespace supernode::moe {
namespace {
using test::Golden;
using test::options_with;
using test::world;

using Rows = std::vector<std::int32_t>;

constexpr std::size_t moe_layers = 3, experts = 16;  // of the golden model, whose first layer is dense

/// Of this rank; none on the last of several.
std::size_t own_tokens() {
  const int rank = world().rank(), size = world().size();
  return size > 1 && rank == size - 1 ? 0 : 6 + 4 * static_cast<std::size_t>(rank);
}

long long sum_of_layer(std::span<const std::int32_t> rows, std::size_t layer) {
  const auto of_layer = rows.subspan(layer * experts, experts);
  return std::accumulate(of_layer.begin(), of_layer.end(), 0LL);
}

}  // namespace

TEST_CASE("routed rows are the gates' choices of a step, over all its slices") {
  const Golden golden("tiny");
  for (const int slice : {64, 5}) {
    TransformerOptions options = options_with("auto");
    options.max_batch_tokens = slice;
    Transformer model(golden.directory(), options, world());
    Rows chosen(moe_layers * experts);
    model.set_observer([&](const LayerTrace& trace) {
      for (const std::int32_t expert : trace.expert_ids)
        ++chosen[static_cast<std::size_t>(trace.layer - 1) * experts + static_cast<std::size_t>(expert)];
    });
    KvCache cache = model.make_cache();
    const auto step = [&](std::size_t first, std::size_t count) {
      chosen.assign(chosen.size(), 0);
      const SequenceChunk chunk{&cache, golden.tokens(0).subspan(first, count)};
      model.forward({&chunk, count > 0 ? 1u : 0u});
    };
    const std::size_t tokens = own_tokens();
    step(0, tokens);
    CHECK(model.routed_rows().empty());

    model.record_routing(RoutingRecord::kept);
    for (const std::size_t count :
         {tokens > 0 ? std::size_t{1} : 0, std::size_t{0}}) {  // a step forgets the one before
      step(tokens, count);
      REQUIRE(test::all_ranks(model.routed_rows().size() == moe_layers * experts));
      CHECK(Rows(model.routed_rows().begin(), model.routed_rows().end()) == chosen);
    }
    cache.truncate(0);
    step(0, tokens);
    CHECK(Rows(model.routed_rows().begin(), model.routed_rows().end()) == chosen);
    for (std::size_t layer = 0; layer < moe_layers; ++layer)
      CHECK(sum_of_layer(model.routed_rows(), layer) == static_cast<long long>(tokens * Golden::topk));

    model.record_routing(RoutingRecord::none);
    step(0, 0);
    CHECK(model.routed_rows().empty());
  }
}

TEST_CASE("routed rows are those that the exchange sent and that the experts' ranks received") {
  // With one expert a token the exchange's rows, which go once to each rank, are rows of experts.
  const test::SharedFolder folder("moe-routing-test");
  if (world().rank() == 0) test::ChangedModel().set("num_experts_per_tok", 1).write(folder.path());
  world().barrier();
  const Golden golden("tiny");
  const TransformerOptions options = options_with("auto");
  Checkpoint checkpoint(folder.path());
  const auto size = static_cast<std::size_t>(world().size());
  const collectives::ExpertPartition partition(checkpoint.config().n_routed_experts, world().size());
  StepRunner runner(checkpoint, options, {partition.first(world().rank()), partition.count(world().rank())},
                    world().size());
  runner.set_exchange(
      std::make_unique<collectives::TokenExchange>(world(), exchange_config(checkpoint.config(), options)));
  runner.record_routing(RoutingRecord::kept);

  // [MoE layers][ranks], as the exchange says after each layer.
  std::vector<std::vector<int>> sent, received;
  runner.set_observer([&](const LayerTrace& trace) {
    if (trace.expert_ids.empty()) return;
    sent.push_back(runner.exchange()->statistics().dispatched_to);
    received.push_back(runner.exchange()->statistics().dispatched_from);
  });
  const ModelConfig& config = runner.config();
  KvCache cache(config.n_layers, config.kv_width(), keeps_keys(config) ? KeptLayout(config).unit_floats() : 0);
  const SequenceChunk chunk{&cache, golden.tokens(0).first(5 + 4 * static_cast<std::size_t>(world().rank()))};
  REQUIRE(test::all_ranks(runner.plan({&chunk, 1}) == 1));
  runner.run_main({&chunk, 1}, 1);

  const std::span<const std::int32_t> mine = runner.routed_rows(0);
  REQUIRE(test::all_ranks(mine.size() == moe_layers * experts && sent.size() == moe_layers));
  Rows all(size * mine.size());
  const int count = static_cast<int>(mine.size());
  SUPERNODE_MPI(MPI_Allgather(mine.data(), count, MPI_INT32_T, all.data(), count, MPI_INT32_T, world().get()));
  for (std::size_t layer = 0; layer < moe_layers; ++layer) {
    std::vector<int> to(size), from(size);
    for (int expert = 0; expert < static_cast<int>(experts); ++expert) {
      const std::size_t at = layer * experts + static_cast<std::size_t>(expert);
      to[static_cast<std::size_t>(partition.rank_of(expert))] += mine[at];
      if (partition.rank_of(expert) != world().rank()) continue;
      for (std::size_t source = 0; source < size; ++source) from[source] += all[source * mine.size() + at];
    }
    CHECK(to == sent[layer]);
    CHECK(from == received[layer]);
    CHECK(sum_of_layer(mine, layer) == static_cast<long long>(chunk.tokens.size()));
  }
}

}  // namespace supernode::moe
