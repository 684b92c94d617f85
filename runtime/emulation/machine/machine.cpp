#include "runtime/emulation/machine/machine.hpp"

#include <charconv>
#include <cmath>
#include <map>
#include <stdexcept>

#include <fmt/format.h>

#include "runtime/core/config_path.hpp"
#include "runtime/core/error.hpp"
#include "runtime/core/files.hpp"
#include "runtime/core/ini_file.hpp"

namespace supernode::emulation {
namespace {

/// A key with the member it sets; exactly one of the two accessors is given.
struct Row {
  MachineKey key;
  int& (*integer)(Machine&);
  double& (*real)(Machine&);
};

constexpr double kMaxCount = 1e6;

#define INTEGER(section, name, member, low)                                                     \
  {                                                                                             \
    {section, name, true, low, kMaxCount}, [](Machine& m) -> int& { return m.member; }, nullptr \
  }
#define REAL(section, name, member, low, high)                                                 \
  {                                                                                            \
    {section, name, false, low, high}, nullptr, [](Machine& m) -> double& { return m.member; } \
  }

/// The one list of keys: parser, template test, what-if options and fits all read it.
const std::vector<Row>& rows() {
  static const std::vector<Row> table = {
      INTEGER("machine", "nodes", nodes, 1),
      INTEGER("machine", "npus_per_node", npus_per_node, 1),
      INTEGER("machine", "dies_per_npu", dies_per_npu, 1),
      INTEGER("machine", "cpus_per_node", cpus_per_node, 1),
      INTEGER("die", "matrix_cores", die.matrix_cores, 1),
      INTEGER("die", "vector_cores", die.vector_cores, 1),
      REAL("die", "int8_tops", die.int8_tops, 1e-6, 1e6),
      REAL("die", "bf16_tflops", die.bf16_tflops, 1e-6, 1e6),
      REAL("die", "memory_gb", die.memory_gb, 1e-3, 1e6),
      REAL("die", "memory_gbps", die.memory_gbps, 1e-3, 1e6),
      REAL("die", "gemm_efficiency", die.gemm_efficiency, 1e-3, 1),
      REAL("die", "operand_exposure", die.operand_exposure, 0, 1),
      REAL("die", "attention_efficiency", die.attention_efficiency, 1e-3, 1),
      REAL("die", "memory_efficiency", die.memory_efficiency, 1e-3, 1),
      REAL("die", "vector_efficiency", die.vector_efficiency, 1e-3, 1),
      REAL("die", "operator_start_us", die.operator_start_us, 0, 1e6),
      REAL("die", "graph_launch_us", die.graph_launch_us, 0, 1e6),
      INTEGER("fabric", "planes", fabric.planes, 1),
      REAL("fabric", "lane_gbps", fabric.lane_gbps, 1e-3, 1e6),
      INTEGER("fabric", "uplinks_per_plane", fabric.uplinks_per_plane, 1),
      INTEGER("fabric", "ports_per_switch", fabric.ports_per_switch, 1),
      REAL("fabric", "die_to_die_gbps", fabric.die_to_die_gbps, 1e-3, 1e6),
      REAL("fabric", "die_to_die_us", fabric.die_to_die_us, 0, 1e6),
      REAL("fabric", "read_efficiency", fabric.read_efficiency, 1e-3, 1),
      REAL("fabric", "write_efficiency", fabric.write_efficiency, 1e-3, 1),
      REAL("fabric", "host_read_factor", fabric.host_read_factor, 1e-3, 1),
      REAL("fabric", "host_write_factor", fabric.host_write_factor, 1e-3, 1),
      REAL("fabric", "distance_factor", fabric.distance_factor, 1e-3, 1),
      REAL("fabric", "read_us", fabric.read_us, 0, 1e6),
      REAL("fabric", "write_us", fabric.write_us, 0, 1e6),
      REAL("fabric", "host_saves_us", fabric.host_saves_us, 0, 1e6),
      REAL("fabric", "second_hop_us", fabric.second_hop_us, 0, 1e6),
      REAL("exchange", "dispatch_start_us", exchange.dispatch_start_us, 0, 1e6),
      REAL("exchange", "combine_start_us", exchange.combine_start_us, 0, 1e6),
      REAL("exchange", "skew_us", exchange.skew_us, 0, 1e6),
      REAL("exchange", "staged_start_us", exchange.staged_start_us, 0, 1e6),
      INTEGER("exchange", "filling_cores", exchange.filling_cores, 1),
      REAL("slow", "rdma_gbps", slow.rdma_gbps, 1e-3, 1e6),
      REAL("slow", "vpc_gbps", slow.vpc_gbps, 1e-3, 1e6),
      REAL("slow", "cpu_link_gbps", slow.cpu_link_gbps, 1e-3, 1e6),
      REAL("slow", "dram_gb", slow.dram_gb, 1e-3, 1e6),
      REAL("slow", "ssd_gbps", slow.ssd_gbps, 1e-3, 1e6),
      REAL("slow", "object_store_gbps", slow.object_store_gbps, 1e-3, 1e6),
      REAL("slow", "object_store_efficiency", slow.object_store_efficiency, 1e-3, 1),
      REAL("slow", "vpc_efficiency", slow.vpc_efficiency, 1e-3, 1),
      REAL("slow", "pool_request_us", slow.pool_request_us, 0, 1e6),
  };
  return table;
}
#undef INTEGER
#undef REAL

const Row* find(std::string_view section, std::string_view key) {
  for (const Row& row : rows())
    if (row.key.section == section && row.key.key == key) return &row;
  return nullptr;
}

/// Empty when the value is fine.
std::string complaint(const MachineKey& key, double value) {
  if (!std::isfinite(value)) return "not a finite number";
  if (key.whole && value != std::floor(value)) return "not a whole number";
  if (value < key.low || value > key.high) return fmt::format("outside [{:g}, {:g}]", key.low, key.high);
  return {};
}

void store(Machine& machine, const Row& row, double value) {
  if (row.integer)
    row.integer(machine) = static_cast<int>(value);
  else
    row.real(machine) = value;
}

const Row& named(std::string_view name) {
  const auto dot = name.find('.');
  if (dot != std::string_view::npos)
    if (const Row* row = find(name.substr(0, dot), name.substr(dot + 1))) return *row;
  throw UsageError(fmt::format("'{}' is not a key of a machine file (write section.key)", name));
}

void check_whole(const Machine& machine, const std::string& source) {
  const double dies = static_cast<double>(machine.nodes) * machine.npus_per_node * machine.dies_per_npu;
  if (dies > kMaxCount)
    throw UsageError(
        fmt::format("{}: nodes x npus_per_node x dies_per_npu = {:g} dies, more than {:g}", source, dies, kMaxCount));
}

}  // namespace

const std::vector<MachineKey>& machine_keys() {
  static const std::vector<MachineKey> keys = [] {
    std::vector<MachineKey> all;
    for (const Row& row : rows()) all.push_back(row.key);
    return all;
  }();
  return keys;
}

Machine parse_machine(std::string_view text, const std::string& source) {
  Machine machine;
  machine.source = source;
  std::map<const Row*, int> given;
  for (const IniEntry& entry : parse_ini(text, source)) {
    const auto bad = [&](const std::string& why) {
      return UsageError(
          fmt::format("{}:{}: [{}] {} = {}: {}", source, entry.line, entry.section, entry.key, entry.value, why));
    };
    if (entry.section == "machine" && entry.key == "name") {
      if (entry.value.empty()) throw bad("the machine needs a name");
      machine.name = entry.value;
      continue;
    }
    const Row* row = find(entry.section, entry.key);
    if (!row) throw bad("unknown key");
    double value = 0;
    const char* end = entry.value.data() + entry.value.size();
    const auto [rest, status] = std::from_chars(entry.value.data(), end, value);
    if (status != std::errc{} || rest != end) throw bad("not a number");
    if (const std::string why = complaint(row->key, value); !why.empty()) throw bad(why);
    store(machine, *row, value);
    given[row] = entry.line;
  }
  if (machine.name.empty()) throw UsageError(fmt::format("{}: [machine] name is missing", source));
  for (const Row& row : rows())
    if (!given.count(&row))
      throw UsageError(fmt::format("{}: [{}] {} is missing", source, row.key.section, row.key.key));
  check_whole(machine, source);
  return machine;
}

Machine load_machine(const std::string& name) {
  const std::string path = config_path("machines", name, ".ini");
  return parse_machine(read_file(path), path);
}

double get(const Machine& machine, std::string_view name) {
  const Row& row = named(name);
  Machine& same = const_cast<Machine&>(machine);  // the accessors serve both directions; nothing is written here
  return row.integer ? row.integer(same) : row.real(same);
}

void set(Machine& machine, std::string_view name, double value) {
  const Row& row = named(name);
  if (const std::string why = complaint(row.key, value); !why.empty())
    throw UsageError(fmt::format("{} = {:g}: {}", name, value, why));
  store(machine, row, value);
  check_whole(machine, std::string(name));
}

Place place_of(const Machine& machine, int die) {
  if (die < 0 || die >= machine.dies())
    throw std::invalid_argument(fmt::format("die {} is outside 0..{} of {}", die, machine.dies() - 1, machine.name));
  Place place;
  place.die = die;
  place.npu = die / machine.dies_per_npu;
  place.die_in_npu = die % machine.dies_per_npu;
  place.node = place.npu / machine.npus_per_node;
  place.npu_in_node = place.npu % machine.npus_per_node;
  place.first_switch = place.node * machine.fabric.planes;
  return place;
}

int hops(const Machine& machine, int from, int to) {
  const Place a = place_of(machine, from), b = place_of(machine, to);
  if (a.npu == b.npu) return 0;
  return a.node == b.node ? 1 : 2;
}

}  // namespace supernode::emulation
