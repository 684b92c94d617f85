// How many rows a step sends to each expert: against what the gates chose, and against what the exchange moved.
#include <algorithm>
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

TEST_CASE("experts in other places compute the same, and back in their own to the last bit") {
  const Golden golden("tiny");
  for (const ComputeType type : {ComputeType::f32, ComputeType::bf16, ComputeType::int8}) {
    TransformerOptions options = options_with("auto");
    options.type = type;
    Transformer model(golden.directory(), options, world());
    model.record_routing(RoutingRecord::kept);
    const auto rows_of_prompt = [&] {
      KvCache cache = model.make_cache();
      const SequenceChunk chunk{&cache, golden.tokens(0)};
      model.forward({&chunk, 1});
      return Rows(model.routed_rows().begin(), model.routed_rows().end());
    };
    const test::Forced before = test::force(model, golden);
    const Rows rows_before = rows_of_prompt();
    ExpertPlaces places = model.expert_places();
    REQUIRE(test::all_ranks(places.layers() == static_cast<int>(moe_layers)));
    const std::size_t bytes = places.expert_bytes();
    CHECK((bytes > 0 && !places.format().empty()));
    const collectives::ExpertPartition partition(static_cast<int>(experts), world().size());
    // Slot s gets expert `to[s]`; the weights come in two parts.
    const auto move_to = [&](int layer, const std::vector<int>& to) {
      const std::vector<int> now = places.placement(layer);
      for (std::size_t slot = 0; slot < experts; ++slot) {
        const int expert = to[slot], target = partition.rank_of(static_cast<int>(slot));
        const auto source_slot = std::find(now.begin(), now.end(), expert) - now.begin();
        const int source = partition.rank_of(static_cast<int>(source_slot));
        std::vector<std::byte> weights(bytes);
        if (world().rank() == source) places.read(layer, expert, 0, weights);
        SUPERNODE_MPI(MPI_Bcast(weights.data(), static_cast<int>(bytes), MPI_BYTE, source, world().get()));
        if (world().rank() != target || source == target) continue;
        const std::span<const std::byte> all = weights;
        places.stage(layer, expert, bytes / 3, all.subspan(bytes / 3));
        places.stage(layer, expert, 0, all.first(bytes / 3));
      }
      places.place(layer, to);
      CHECK(places.placement(layer) == to);
    };
    std::vector<int> in_order(experts);
    std::iota(in_order.begin(), in_order.end(), 0);
    std::vector<std::vector<int>> placed;
    for (int layer = 0; layer < places.layers(); ++layer) {
      CHECK(places.placement(layer) == in_order);
      std::vector<int>& to = placed.emplace_back();
      for (int slot = 0; slot < static_cast<int>(experts); ++slot)
        to.push_back((5 * slot + layer) % static_cast<int>(experts));
      move_to(layer, to);
    }
    const test::Forced moved = test::force(model, golden);
    // Where sums travel as bf16 their rounding is one of bf16, and a choice of experts may fall otherwise.
    for (std::size_t i = 0; type == ComputeType::f32 && i < moved.logits.size(); ++i)
      CHECK(test::max_difference(moved.logits[i], before.logits[i]) < 1e-5);
    // The same experts were chosen, in their new slots.
    const Rows rows_moved = rows_of_prompt();
    for (std::size_t layer = 0; type == ComputeType::f32 && layer < moe_layers; ++layer)
      for (std::size_t slot = 0; slot < experts; ++slot)
        CHECK(rows_moved[layer * experts + slot] ==
              rows_before[layer * experts + static_cast<std::size_t>(placed[layer][slot])]);
    for (int layer = 0; layer < places.layers(); ++layer) move_to(layer, in_order);
    const test::Forced back = test::force(model, golden);
    CHECK(back.logits == before.logits);
    CHECK(rows_of_prompt() == rows_before);
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
