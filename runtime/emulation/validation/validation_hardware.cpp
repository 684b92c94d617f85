// Rows about links, storage, exchange and operators.
#include <algorithm>

#include "runtime/emulation/exchange.hpp"
#include "runtime/emulation/machine/links.hpp"
#include "runtime/emulation/machine/storage.hpp"
#include "runtime/emulation/moe_stage.hpp"
#include "runtime/emulation/operators.hpp"
#include "runtime/emulation/validation/published.hpp"
#include "runtime/emulation/validation/validation_internal.hpp"

namespace supernode::emulation::internal {
namespace {

void add_table1(std::vector<Row>& rows) {
  const PublishedTable table = load_published("table1");
  for (std::size_t i = 0; i < table.rows(); ++i) {
    const Access access = table.text(i, "op") == "read" ? Access::read : Access::write;
    const Memory memory = table.text(i, "path") == "npu-npu" ? Memory::die : Memory::host;
    for (const auto& [where, hop] : {std::pair{"intra", 1}, {"inter", 2}}) {
      const std::string name = fmt::format("{} {} {}", table.text(i, "path"), table.text(i, "op"), where);
      const int hops = hop;
      rows.push_back(
          {"1", name, "bandwidth GB/s", table.number(i, fmt::format("bw_{}_GBps", where)), true,
           [=](const Machines& m) {
             const double gbps = link_gbps(m.cloudmatrix, access, memory, hops);
             return Modelled{gbps, {fmt::format("{:.1f} GB/s of {:.0f} raw", gbps, m.cloudmatrix.fabric_gbps())}};
           }});
      rows.push_back({"1", name + " latency", "us", table.number(i, fmt::format("lat_{}_us", where)), true,
                      [=](const Machines& m) {
                        const ModelTime time = link_time(m.cloudmatrix, access, memory, hops, 512);
                        return Modelled{time.us(),
                                        {in_us("latency", link_latency(m.cloudmatrix, access, memory, hops)),
                                         in_us("512 B", time - link_latency(m.cloudmatrix, access, memory, hops))}};
                      }});
    }
  }
}

constexpr double kModelBytes = 671e9;  // of Table 2's caption
constexpr int kInstances = 8, kModels = 8;

void add_table2(std::vector<Row>& rows) {
  const PublishedTable table = load_published("table2");
  const std::pair<const char*, ModelStore> columns[] = {
      {"object_store", ModelStore::object_store}, {"local_dram", ModelStore::local_dram}, {"ems", ModelStore::pool}};
  for (std::size_t i = 0; i < table.rows(); ++i) {
    const std::string metric = table.text(i, "metric");
    for (const auto& [column, store] : columns) {
      if (table.empty(i, column)) continue;
      const bool fit = metric == "cold_start_s" && store == ModelStore::pool;
      const ModelStore kind = store;
      rows.push_back({"2", fmt::format("{} {}", metric, column), "s, x or %", table.number(i, column), fit,
                      [=](const Machines& m) {
                        const ModelStoreCosts c =
                            model_store_costs(m.cloudmatrix, kind, kModelBytes, kInstances, kModels);
                        const double value = metric == "cold_start_s"            ? c.cold_start.value
                                             : metric == "warm_start_s"          ? c.warm_start.value
                                             : metric == "dram_overhead_x_model" ? c.dram_overhead
                                             : metric == "hit_rate_pct"          ? 100 * c.hit_rate
                                                                                 : c.average_switch.value;
                        return Modelled{value,
                                        {fmt::format("cold start {:.1f} s, warm start {:.2f} s, hit rate {:.3f}",
                                                     c.cold_start.value, c.warm_start.value, c.hit_rate)}};
                      }});
    }
  }
}

/// Table 7's own setting: 128 tokens a rank, hidden 7168, routing without hot experts.
constexpr double kTokens = 128, kHidden = 7168, kTopk = 8;

Modelled table7(const Machine& machine, Phase phase, int ranks, double copies, double row_bytes) {
  const ExchangeStyle style{phase, ranks, 1, true};
  const double bytes = kTokens * copies * row_bytes;
  Modelled result;
  result.value = exchange_time(machine, style, bytes).us();
  const double start =
      phase == Phase::dispatch ? machine.exchange.dispatch_start_us : machine.exchange.combine_start_us;
  const double skew = phase == Phase::dispatch ? machine.exchange.skew_us * harmonic(ranks) : 0;
  const double local = 1e6 * bytes * (phase == Phase::dispatch ? 2 : 1) /
                       (machine.die.memory_gbps * 1e9 * machine.die.memory_efficiency);
  result.parts = {in_us("start-up", {start * 1e-6}), in_us("latest peer", {skew * 1e-6}),
                  in_us("rows in local memory", {local * 1e-6}),
                  in_us("wire and latency", {(result.value - start - skew - local) * 1e-6}),
                  fmt::format("{:.2f} MB a rank, {:.0f} GiB/s", bytes / 1e6, bytes / 1.073741824e3 / result.value)};
  return result;
}

void add_table7(std::vector<Row>& rows) {
  const PublishedTable table = load_published("table7");
  for (std::size_t i = 0; i < table.rows(); ++i) {
    const Phase phase = table.text(i, "op") == "dispatch" ? Phase::dispatch : Phase::combine;
    const auto ranks = static_cast<int>(table.number(i, "ep"));
    const bool fit = ranks == 8 || ranks == 256;
    const std::string name = fmt::format("{} EP{}", table.text(i, "op"), ranks);
    // The bandwidth column of the paper, in GiB/s, means nine copies of the padded rows: eight experts and a shared
    // one.
    const double row =
        phase == Phase::dispatch ? dispatch_message_bytes(kHidden, true) : combine_message_bytes(kHidden);
    rows.push_back({"7", name, "cm384 us", table.number(i, "cm384_us"), fit,
                    [=](const Machines& m) { return table7(m.cloudmatrix, phase, ranks, kTopk + 1, row); }});
    // DeepEP sends eight copies; FP8 rows carry a scale for every 128 values and 16 B of header.
    const double deepep = phase == Phase::dispatch ? kHidden + 4 * kHidden / 128 + 16 : 2 * kHidden;
    rows.push_back({"7", name + " H800", "us", table.number(i, "h800_us"), fit,
                    [=](const Machines& m) { return table7(m.h800, phase, ranks, kTopk, deepep); }});
  }
}

void add_table8_9(std::vector<Row>& rows) {
  const PublishedTable table = load_published("table8_9");
  for (std::size_t i = 0; i < table.rows(); ++i) {
    const bool compute = table.text(i, "row") == "compute_bound";
    rows.push_back({"8-9", table.text(i, "row"), "utilisation %", table.number(i, "utilisation_pct"), true,
                    [=](const Machines& m) {
                      const Machine& cm = m.cloudmatrix;
                      constexpr double kSize = 1e12;  // far on one side of the ridge
                      const double seconds =
                          compute ? attention_time(cm, kSize, 0).value : attention_time(cm, 0, kSize).value;
                      const double peak = compute ? cm.die.bf16_tflops * 1e12 : cm.die.memory_gbps * 1e9;
                      return Modelled{100 * kSize / seconds / peak, {}};
                    }});
  }
}

void add_table10(std::vector<Row>& rows) {
  const PublishedTable table = load_published("table10");
  for (std::size_t i = 0; i < table.rows(); ++i) {
    const Gemm gemm{table.number(i, "groups"), table.number(i, "m"), table.number(i, "n"), table.number(i, "k"), true};
    const std::string name = fmt::format("{} x [{}, {}] x [{}, {}]", gemm.groups, gemm.m, gemm.k, gemm.k, gemm.n);
    rows.push_back(
        {"10", name, "utilisation %", table.number(i, "utilisation_pct"), true, [=](const Machines& m) {
           const double work = 2 * gemm.groups * gemm.m * gemm.n * gemm.k;
           const ModelTime time = gemm_time(m.cloudmatrix, gemm);
           return Modelled{100 * work / time.value / (m.cloudmatrix.die.int8_tops * 1e12), {in_us("whole", time)}};
         }});
    rows.push_back({"10", name + " memory", "GB/s", table.number(i, "mem_GBps"), false, [=](const Machines& m) {
                      const double bytes = gemm.groups * (gemm.m * gemm.k + gemm.k * gemm.n + 2 * gemm.m * gemm.n);
                      return Modelled{bytes / gemm_time(m.cloudmatrix, gemm).value / 1e9,
                                      {fmt::format("{:.1f} MB read and written", bytes / 1e6)}};
                    }});
  }
}

void add_table11(std::vector<Row>& rows) {
  const PublishedTable table = load_published("table11");
  for (std::size_t i = 0; i < table.rows(); ++i) {
    const auto nodes = static_cast<int>(table.number(i, "nodes"));
    const std::string name = fmt::format("{} NPUs", table.text(i, "npus"));
    rows.push_back({"11", name + " switches", "logical switches", table.number(i, "logical_switches"), false,
                    [=](const Machines& m) {
                      return Modelled{1.0 * switch_plan(m.cloudmatrix, nodes).logical_switches, {}};
                    }});
    rows.push_back({"11", name, "ports in use %", table.number(i, "utilisation_pct"), false, [=](const Machines& m) {
                      return Modelled{100 * switch_plan(m.cloudmatrix, nodes).utilisation, {}};
                    }});
  }
}

}  // namespace

void add_hardware_rows(std::vector<Row>& rows) {
  add_table1(rows);
  add_table2(rows);
  add_table7(rows);
  add_table8_9(rows);
  add_table10(rows);
  add_table11(rows);
}

}  // namespace supernode::emulation::internal
