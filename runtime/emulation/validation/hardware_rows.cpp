// Rows about links, storage, exchange and operators.
#include <algorithm>

#include "runtime/emulation/exchange.hpp"
#include "runtime/emulation/machine/links.hpp"
#include "runtime/emulation/machine/storage.hpp"
#include "runtime/emulation/moe_stage.hpp"
#include "runtime/emulation/operators.hpp"
#include "runtime/emulation/validation/published.hpp"
#include "runtime/emulation/validation/row_builder.hpp"

namespace supernode::emulation {
namespace {

void add_table1(std::vector<ValidationRow>& rows) {
  const PublishedTable table = load_published("table1");
  for (std::size_t i = 0; i < table.rows(); ++i) {
    const auto access = table.choice<Access>(i, "op", {{"read", Access::read}, {"write", Access::write}});
    const auto memory = table.choice<Memory>(i, "path", {{"npu-npu", Memory::die}, {"npu-cpu", Memory::host}});
    for (const auto& [where, hop] : {std::pair{"intra", 1}, {"inter", 2}}) {
      const std::string name = fmt::format("{} {} {}", table.text(i, "path"), table.text(i, "op"), where);
      const int hops = hop;
      rows.push_back(
          {"1", name, "bandwidth GB/s", table.number(i, fmt::format("bw_{}_GBps", where)), table.kind(i),
           [=](const Machines& m) {
             const double gbps = link_gbps(m.cloudmatrix, access, memory, hops);
             return Modelled{gbps, {fmt::format("{:.1f} GB/s of {:.0f} raw", gbps, m.cloudmatrix.fabric_gbps())}};
           }});
      rows.push_back({"1", name + " latency", "us", table.number(i, fmt::format("lat_{}_us", where)), table.kind(i),
                      [=](const Machines& m) {
                        const Terms terms = link_time(m.cloudmatrix, access, memory, hops, 512);
                        return Modelled{terms.total().us(),
                                        {in_us("latency", terms.of("latency")), in_us("512 B", terms.of("transfer"))}};
                      }});
    }
  }
}

constexpr double kModelBytes = 671e9;  // of Table 2's caption
constexpr int kInstances = 8, kModels = 8;

void add_table2(std::vector<ValidationRow>& rows) {
  const PublishedTable table = load_published("table2");
  for (std::size_t i = 0; i < table.rows(); ++i) {
    const auto store = table.choice<ModelStore>(i, "store",
                                                {{"object_store", ModelStore::object_store},
                                                 {"local_dram", ModelStore::local_dram},
                                                 {"ems", ModelStore::pool}});
    using Figure = double (*)(const ModelStoreCosts&);
    const auto figure =
        table.choice<Figure>(i, "metric",
                             {{"cold_start_s", [](const ModelStoreCosts& c) { return c.cold_start.value; }},
                              {"warm_start_s", [](const ModelStoreCosts& c) { return c.warm_start.value; }},
                              {"dram_overhead_x_model", [](const ModelStoreCosts& c) { return c.dram_overhead; }},
                              {"hit_rate_pct", [](const ModelStoreCosts& c) { return 100 * c.hit_rate; }},
                              {"average_latency_s", [](const ModelStoreCosts& c) { return c.average_switch.value; }}});
    rows.push_back({"2", fmt::format("{} {}", table.text(i, "metric"), table.text(i, "store")), "s, x or %",
                    table.number(i, "value"), table.kind(i), [=](const Machines& m) {
                      const ModelStoreCosts c =
                          model_store_costs(m.cloudmatrix, store, kModelBytes, kInstances, kModels);
                      return Modelled{figure(c),
                                      {fmt::format("cold start {:.1f} s, warm start {:.2f} s, hit rate {:.3f}",
                                                   c.cold_start.value, c.warm_start.value, c.hit_rate)}};
                    }});
  }
}

/// Table 7's own setting: 128 tokens a rank, hidden 7168, routing without hot experts.
constexpr double kTokens = 128, kHidden = 7168, kTopk = 8;

Modelled table7(const Machine& machine, Phase phase, int ranks, double copies, double row_bytes) {
  const double bytes = kTokens * copies * row_bytes;
  const Terms terms = exchange_time(machine, {.phase = phase, .ranks = ranks}, bytes);
  Modelled result{terms.total().us()};
  append(result.parts, "", terms);
  result.parts.push_back(
      fmt::format("{:.2f} MB a rank, {:.0f} GiB/s", bytes / 1e6, bytes / 1.073741824e3 / result.value));
  return result;
}

void add_table7(std::vector<ValidationRow>& rows) {
  const PublishedTable table = load_published("table7");
  for (std::size_t i = 0; i < table.rows(); ++i) {
    const auto phase = table.choice<Phase>(i, "op", {{"dispatch", Phase::dispatch}, {"combine", Phase::combine}});
    const auto ranks = static_cast<int>(table.number(i, "ep"));
    const std::string name = fmt::format("{} EP{}", table.text(i, "op"), ranks);
    // The bandwidth column of the paper, in GiB/s, means nine copies of the padded rows: eight experts and a shared
    // one.
    const double row = phase == Phase::dispatch ? dispatch_message_bytes(kHidden, {}) : combine_message_bytes(kHidden);
    rows.push_back({"7", name, "cm384 us", table.number(i, "cm384_us"), table.kind(i),
                    [=](const Machines& m) { return table7(m.cloudmatrix, phase, ranks, kTopk + 1, row); }});
    // DeepEP sends eight copies; FP8 rows carry a scale for every 128 values and 16 B of header.
    const double deepep = phase == Phase::dispatch ? kHidden + 4 * kHidden / 128 + 16 : 2 * kHidden;
    rows.push_back({"7", name + " H800", "us", table.number(i, "h800_us"), table.kind(i),
                    [=](const Machines& m) { return table7(m.h800, phase, ranks, kTopk, deepep); }});
  }
}

void add_table8_9(std::vector<ValidationRow>& rows) {
  const PublishedTable table = load_published("table8_9");
  constexpr double kSize = 1e12;  // far on one side of the ridge
  using Share = double (*)(const Machine&);
  for (std::size_t i = 0; i < table.rows(); ++i) {
    const auto share = table.choice<Share>(
        i, "row",
        {{"compute_bound",
          [](const Machine& m) { return kSize / attention_time(m, kSize, 0).value / (m.die.bf16_tflops * 1e12); }},
         {"memory_bound",
          [](const Machine& m) { return kSize / attention_time(m, 0, kSize).value / (m.die.memory_gbps * 1e9); }}});
    rows.push_back({"8-9", table.text(i, "row"), "utilisation %", table.number(i, "utilisation_pct"), table.kind(i),
                    [=](const Machines& m) { return Modelled{100 * share(m.cloudmatrix)}; }});
  }
}

Modelled gemm_utilisation(const Machine& machine, const Gemm& gemm) {
  const double work = 2 * gemm.groups * gemm.m * gemm.n * gemm.k;
  const ModelTime time = gemm_time(machine, gemm);
  return {100 * work / time.value / (machine.die.int8_tops * 1e12), {in_us("whole", time)}};
}

Modelled gemm_traffic(const Machine& machine, const Gemm& gemm) {
  const double bytes = gemm.groups * (gemm.m * gemm.k + gemm.k * gemm.n + 2 * gemm.m * gemm.n);
  return {bytes / gemm_time(machine, gemm).value / 1e9, {fmt::format("{:.1f} MB read and written", bytes / 1e6)}};
}

void add_table10(std::vector<ValidationRow>& rows) {
  struct Quantity {
    const char *suffix, *unit;
    Modelled (*model)(const Machine&, const Gemm&);
  };
  const PublishedTable table = load_published("table10");
  for (std::size_t i = 0; i < table.rows(); ++i) {
    const Gemm gemm{.groups = table.number(i, "groups"),
                    .m = table.number(i, "m"),
                    .n = table.number(i, "n"),
                    .k = table.number(i, "k")};
    const auto quantity = table.choice<Quantity>(i, "quantity",
                                                 {{"utilisation_pct", {"", "utilisation %", gemm_utilisation}},
                                                  {"mem_GBps", {" memory", "GB/s", gemm_traffic}}});
    const std::string name = fmt::format("{} x [{}, {}] x [{}, {}]", gemm.groups, gemm.m, gemm.k, gemm.k, gemm.n);
    rows.push_back({"10", name + quantity.suffix, quantity.unit, table.number(i, "value"), table.kind(i),
                    [=](const Machines& m) { return quantity.model(m.cloudmatrix, gemm); }});
  }
}

void add_table11(std::vector<ValidationRow>& rows) {
  const PublishedTable table = load_published("table11");
  for (std::size_t i = 0; i < table.rows(); ++i) {
    const auto nodes = static_cast<int>(table.number(i, "nodes"));
    const std::string name = fmt::format("{} NPUs", table.text(i, "npus"));
    rows.push_back(
        {"11", name + " switches", "logical switches", table.number(i, "logical_switches"), table.kind(i),
         [=](const Machines& m) { return Modelled{1.0 * switch_plan(m.cloudmatrix, nodes).logical_switches}; }});
    rows.push_back({"11", name, "ports in use %", table.number(i, "utilisation_pct"), table.kind(i),
                    [=](const Machines& m) { return Modelled{100 * switch_plan(m.cloudmatrix, nodes).utilisation}; }});
  }
}

}  // namespace

void add_hardware_rows(std::vector<ValidationRow>& rows) {
  add_table1(rows);
  add_table2(rows);
  add_table7(rows);
  add_table8_9(rows);
  add_table10(rows);
  add_table11(rows);
}

}  // namespace supernode::emulation
