// Operators, links, storage, model shapes, published tables.
#include <cmath>
#include <filesystem>
#include <string>
#include <vector>

#include "moe/model_config.hpp"
#include "moe/model_shape.hpp"
#include "runtime/core/config_path.hpp"
#include "runtime/core/error.hpp"
#include "runtime/core/files.hpp"
#include "runtime/emulation/machine/links.hpp"
#include "runtime/emulation/machine/storage.hpp"
#include "runtime/emulation/operators.hpp"
#include "runtime/emulation/validation/published.hpp"
#include "tests/emulation/shipped.hpp"
#include "tests/support/catch.hpp"

using namespace supernode;
using namespace supernode::emulation;
using Catch::Matchers::Contains;

namespace {

/// `cost` over sizes 0 .. about 1e9: zero at `floor`, never falling, no jump larger than its neighbourhood explains.
template <class Cost>
void check_monotone_continuous(Cost cost, double floor) {
  CHECK(cost(0) == Approx(floor).margin(1e-15));
  double last = cost(0);
  for (double size = 1e-3; size < 1e9; size *= 1.3) {
    const double here = cost(size), beside = cost(size * (1 + 1e-9));
    CHECK(here >= last);
    CHECK(beside - here <= 1e-6 * here + 1e-15);
    last = here;
  }
}

}  // namespace

TEST_CASE("operators grow with size, without jumps, from nothing") {
  check_monotone_continuous([](double m) { return gemm_time(cm(), {.m = m, .n = 4096, .k = 7168}).value; }, 0);
  check_monotone_continuous([](double n) { return gemm_time(cm(), {.groups = 4, .m = 64, .n = n, .k = 7168}).value; },
                            gemm_time(cm(), {.groups = 4, .m = 64, .n = 0, .k = 7168}).value);
  check_monotone_continuous([](double flops) { return attention_time(cm(), flops * 1e6, 1e6).value; },
                            attention_time(cm(), 0, 1e6).value);
  check_monotone_continuous([](double bytes) { return vector_time(cm(), bytes).value; }, 0);
}

TEST_CASE("operators have the right units and limits") {
  Machine machine = cm();
  // One second's worth of each resource.
  CHECK(vector_time(machine, 1600e9 * machine.die.vector_efficiency).value == Approx(1));
  CHECK(attention_time(machine, 376e12 * machine.die.attention_efficiency, 0).value == Approx(1));
  CHECK(start_time(machine, 3).us() == Approx(3 * machine.die.operator_start_us));
  // bf16 has half the peak and twice the bytes.
  const Gemm int8{.m = 4096, .n = 4096, .k = 4096},
      bf16{.m = 4096, .n = 4096, .k = 4096, .operands = ElementType::bf16};
  CHECK(gemm_time(machine, bf16).value > 1.8 * gemm_time(machine, int8).value);
  // A stream with a part of the cores takes as much longer.
  CHECK(gemm_time(machine, int8, {0.5, 0.5}).value == Approx(2 * gemm_time(machine, int8).value));
  // Groups add up.
  CHECK(gemm_time(machine, {.groups = 8, .m = 100, .n = 4096, .k = 7168}).value ==
        Approx(8 * gemm_time(machine, {.m = 100, .n = 4096, .k = 7168}).value));
  // Infinite memory bandwidth leaves the arithmetic.
  set(machine, "die.memory_gbps", 1e6);
  set(machine, "die.memory_efficiency", 1);
  CHECK(gemm_time(machine, int8).value ==
        Approx(2 * std::pow(4096., 3) / (752e12 * machine.die.gemm_efficiency)).epsilon(0.01));
}

TEST_CASE("links: latency at zero bytes, bandwidth at many, farther is slower") {
  for (const Access access : {Access::read, Access::write}) {
    for (const Memory memory : {Memory::die, Memory::host}) {
      for (const int hop : {1, 2})
        check_monotone_continuous(
            [&](double bytes) { return link_time(cm(), access, memory, hop, bytes).total().value; },
            link_latency(cm(), access, memory, hop).value);
      CHECK(link_gbps(cm(), access, memory, 2) < link_gbps(cm(), access, memory, 1));
      CHECK(link_gbps(cm(), access, memory, 1) < cm().fabric_gbps());
      CHECK(link_latency(cm(), access, memory, 2) > link_latency(cm(), access, memory, 1));
    }
  }
  CHECK(link_gbps(cm(), Access::read, Memory::die, 0) == Approx(270));
  const Terms second = link_time(cm(), Access::read, Memory::die, 0, 270e9);
  CHECK(second.of("transfer").value == Approx(1));
  CHECK(second.of("latency").us() == Approx(cm().fabric.die_to_die_us));
}

TEST_CASE("switches of the second tier") {
  CHECK(switch_plan(cm(), 48).logical_switches == 56);
  CHECK(switch_plan(cm(), 48).utilisation == Approx(1));
  CHECK(switch_plan(cm(), 1).logical_switches == 7);
  for (int nodes = 1; nodes < 48; ++nodes)
    CHECK(switch_plan(cm(), nodes).logical_switches <= switch_plan(cm(), nodes + 1).logical_switches);
}

TEST_CASE("storage: nothing costs nothing, more costs more, slower networks cost more") {
  for (const PoolNetwork network : {PoolNetwork::fabric, PoolNetwork::vpc})
    check_monotone_continuous([&](double bytes) { return pool_read_time(cm(), network, bytes, 1e5).total().value; }, 0);
  // A node's Ethernet is shared by its dies; the client's software path is the same on both.
  const Terms fabric = pool_read_time(cm(), PoolNetwork::fabric, 1e9, 1e5);
  const Terms vpc = pool_read_time(cm(), PoolNetwork::vpc, 1e9, 1e5);
  CHECK(fabric.of("requests").us() == Approx(1e4 * cm().host_path.pool_request_us));
  CHECK(vpc.of("requests") == fabric.of("requests"));
  CHECK(fabric.of("transfer").value == Approx(1 / link_gbps(cm(), Access::read, Memory::host, 2)));
  CHECK(vpc.of("transfer").value == Approx(16 / (cm().host_path.vpc_gbps * cm().host_path.vpc_efficiency)));
  // The software path, not the link, sets the rate of small pieces.
  CHECK(pool_read_time(cm(), PoolNetwork::fabric, 1e9, 1e4).total() > 5.0 * fabric.total());
  CHECK(ssd_read_time(cm(), 10e9).value == Approx(1));
  CHECK(object_store_time(cm(), 1e9, 8).value == Approx(8 * object_store_time(cm(), 1e9, 1).value));
  CHECK(warm_load_time(cm(), 0).value == 0);
  const auto pool = model_store_costs(cm(), ModelStore::pool, 671e9, 8, 8);
  const auto local = model_store_costs(cm(), ModelStore::local_dram, 671e9, 8, 8);
  CHECK(pool.hit_rate == 1);
  CHECK(local.hit_rate == Approx(0.125));
  CHECK(local.cold_start.value == Approx(8 * pool.cold_start.value));
  CHECK(pool.average_switch < local.average_switch);
}

TEST_CASE("DeepSeek-R1's sizes") {
  const ModelShape model = moe::load_model_shape("deepseek-r1");
  CHECK(model.name == "deepseek-r1");
  CHECK(model.layers == 61);
  CHECK(model.dense_layers == 3);
  CHECK(model.mtp_layers == 1);
  CHECK(model.hidden == 7168);
  CHECK(model.dense_ffn == 18432);
  CHECK(model.expert_ffn == 2048);
  CHECK(model.experts == 256);
  CHECK(model.shared_experts == 1);
  CHECK(model.topk == 8);
  CHECK(model.heads == 128);
  CHECK(model.q_lora == 1536);
  CHECK(model.kv_lora == 512);
  CHECK(model.rope == 64);
  CHECK(model.nope == 128);
  CHECK(model.value == 128);
  CHECK(model.vocabulary == 129280);
  CHECK(model.kv_bytes_per_token() == 70272);
  CHECK(model.weights() == Approx(671e9).epsilon(0.01));
  CHECK(model.attention_weights() == Approx(187.1e6).epsilon(0.001));
}

TEST_CASE("a model's sizes come by name, folder or file, quantised or not") {
  const std::string file = config_path("models", "deepseek-r1", "/config.json");
  const std::string folder = file.substr(0, file.rfind('/'));
  CHECK(moe::load_model_shape(file).name == "deepseek-r1");
  CHECK(moe::load_model_shape(folder).hidden == 7168);
  std::string text = read_file(file);
  text.insert(text.find('{') + 1, R"("quantization_config": {"quant_method": "fp8"},)");
  const std::filesystem::path own = std::filesystem::temp_directory_path() / "supernode-shape-test" / "quantised";
  std::filesystem::remove_all(own);
  std::filesystem::create_directories(own);
  write_file((own / "config.json").string(), text);
  const ModelShape quantised = moe::load_model_shape(own.string());
  CHECK(quantised.name == "quantised");
  CHECK(quantised.weights() == moe::load_model_shape("deepseek-r1").weights());
  std::filesystem::remove_all(own.parent_path());
}

TEST_CASE("a model that the cost functions cannot describe is refused") {
  CHECK_THROWS_WITH(moe::load_model_shape("no-such-model"), Contains("'no-such-model' is not in"));
  const std::string file = config_path("models", "deepseek-r1", "/config.json");
  moe::ModelConfig config = moe::parse_model_config(read_file(file), file);
  config.moe_layer_freq = 2;
  CHECK_THROWS_WITH(moe::shape_of(config), Contains("'moe_layer_freq' is 2"));
  config.moe_layer_freq = 1;
  CHECK_NOTHROW(moe::expert_layout_of(config, 64).check(moe::shape_of(config)));
  CHECK_THROWS_WITH(moe::expert_layout_of(config, 3),
                    Contains("'n_routed_experts' is 256: a modelled instance of 3 dies"));
  config.n_routed_experts = 0;
  CHECK_THROWS_WITH(moe::shape_of(config), Contains("'n_routed_experts' is 0"));
}

TEST_CASE("published tables are read strictly") {
  const PublishedTable table("# c\na,b\n1,\n2,x\n", "t.csv");
  CHECK(table.rows() == 2);
  CHECK(table.choice<int>(1, "b", {{"y", 1}, {"x", 2}}) == 2);
  CHECK_THROWS_WITH(table.choice<int>(1, "b", {{"y", 1}}), "t.csv:4: b = 'x' is unknown");
  CHECK(table.number(0, "a") == 1);
  CHECK(table.empty(0, "b"));
  CHECK_THROWS_WITH(table.number(1, "b"), Contains("t.csv:4: b = 'x' is not a number"));
  CHECK_THROWS_WITH(table.text(0, "c"), Contains("no column 'c'"));
  CHECK_THROWS_WITH(PublishedTable("a,b\n1\n", "t.csv"), Contains("t.csv:2: 1 fields, 2 expected"));
  CHECK_THROWS_WITH(PublishedTable("# only\n", "t.csv"), Contains("no column names"));
}

TEST_CASE("a published row says itself what it is for") {
  const PublishedTable table("row,kind\na,fit\nb,predicted\nc,context\nd,fitted\ne,\n", "t.csv");
  CHECK(table.kind(0) == FigureKind::fit);
  CHECK(table.kind(1) == FigureKind::predicted);
  CHECK(table.kind(2) == FigureKind::context);
  CHECK_THROWS_WITH(table.kind(3), "t.csv:5: kind = 'fitted' is none of fit, predicted, context");
  CHECK_THROWS_WITH(table.kind(4), Contains("t.csv:6: kind = ''"));
  CHECK_THROWS_WITH(PublishedTable("row\na\n", "t.csv").kind(0), "t.csv: no column 'kind'");
}
