#include "runtime/emulation/machine/machine.hpp"

#include <cmath>
#include <map>
#include <optional>
#include <stdexcept>
#include <type_traits>
#include <variant>

#include <fmt/format.h>

#include "runtime/core/config_path.hpp"
#include "runtime/core/error.hpp"
#include "runtime/core/files.hpp"
#include "runtime/core/ini_file.hpp"
#include "runtime/core/text.hpp"

namespace supernode::emulation {
namespace {

/// A number in a part of the machine.
template <class Part, class Number>
struct In {
  Part Machine::*part;
  Number Part::*number;
};

/// Where a key's number stands.
using Member = std::variant<int Machine::*, In<Die, int>, In<Die, double>, In<Fabric, int>, In<Fabric, double>,
                            In<ExchangeCosts, int>, In<ExchangeCosts, double>, In<HostPath, double>>;

// `AnyMachine` is Machine or const Machine.
template <class AnyMachine>
auto& number_in(AnyMachine& machine, int Machine::*member) {
  return machine.*member;
}
template <class AnyMachine, class Part, class Number>
auto& number_in(AnyMachine& machine, In<Part, Number> member) {
  return machine.*member.part.*member.number;
}

struct KeyMember {
  MachineKey key;
  Member member;
};

constexpr double kMaxCount = 1e6;

KeyMember count(std::string_view section, std::string_view key, Member member) {
  return {{section, key, true, 1, kMaxCount}, member};
}

KeyMember real(std::string_view section, std::string_view key, Member member, double low, double high) {
  return {{section, key, false, low, high}, member};
}

/// The one list of keys: parser, template test, what-if options and fits all read it.
const std::vector<KeyMember>& key_members() {
  static const std::vector<KeyMember> table = {
      count("machine", "nodes", &Machine::nodes),
      count("machine", "npus_per_node", &Machine::npus_per_node),
      count("machine", "dies_per_npu", &Machine::dies_per_npu),
      count("machine", "cpus_per_node", &Machine::cpus_per_node),
      count("die", "matrix_cores", In{&Machine::die, &Die::matrix_cores}),
      count("die", "vector_cores", In{&Machine::die, &Die::vector_cores}),
      real("die", "int8_tops", In{&Machine::die, &Die::int8_tops}, 1e-6, 1e6),
      real("die", "bf16_tflops", In{&Machine::die, &Die::bf16_tflops}, 1e-6, 1e6),
      real("die", "memory_gb", In{&Machine::die, &Die::memory_gb}, 1e-3, 1e6),
      real("die", "memory_gbps", In{&Machine::die, &Die::memory_gbps}, 1e-3, 1e6),
      real("die", "gemm_efficiency", In{&Machine::die, &Die::gemm_efficiency}, 1e-3, 1),
      real("die", "operand_exposure", In{&Machine::die, &Die::operand_exposure}, 0, 1),
      real("die", "attention_efficiency", In{&Machine::die, &Die::attention_efficiency}, 1e-3, 1),
      real("die", "memory_efficiency", In{&Machine::die, &Die::memory_efficiency}, 1e-3, 1),
      real("die", "vector_efficiency", In{&Machine::die, &Die::vector_efficiency}, 1e-3, 1),
      real("die", "operator_start_us", In{&Machine::die, &Die::operator_start_us}, 0, 1e6),
      real("die", "graph_launch_us", In{&Machine::die, &Die::graph_launch_us}, 0, 1e6),
      count("fabric", "planes", In{&Machine::fabric, &Fabric::planes}),
      real("fabric", "lane_gbps", In{&Machine::fabric, &Fabric::lane_gbps}, 1e-3, 1e6),
      count("fabric", "uplinks_per_plane", In{&Machine::fabric, &Fabric::uplinks_per_plane}),
      count("fabric", "ports_per_switch", In{&Machine::fabric, &Fabric::ports_per_switch}),
      real("fabric", "die_to_die_gbps", In{&Machine::fabric, &Fabric::die_to_die_gbps}, 1e-3, 1e6),
      real("fabric", "die_to_die_us", In{&Machine::fabric, &Fabric::die_to_die_us}, 0, 1e6),
      real("fabric", "read_efficiency", In{&Machine::fabric, &Fabric::read_efficiency}, 1e-3, 1),
      real("fabric", "write_efficiency", In{&Machine::fabric, &Fabric::write_efficiency}, 1e-3, 1),
      real("fabric", "host_read_factor", In{&Machine::fabric, &Fabric::host_read_factor}, 1e-3, 1),
      real("fabric", "host_write_factor", In{&Machine::fabric, &Fabric::host_write_factor}, 1e-3, 1),
      real("fabric", "distance_factor", In{&Machine::fabric, &Fabric::distance_factor}, 1e-3, 1),
      real("fabric", "read_us", In{&Machine::fabric, &Fabric::read_us}, 0, 1e6),
      real("fabric", "write_us", In{&Machine::fabric, &Fabric::write_us}, 0, 1e6),
      real("fabric", "host_saves_us", In{&Machine::fabric, &Fabric::host_saves_us}, 0, 1e6),
      real("fabric", "second_hop_us", In{&Machine::fabric, &Fabric::second_hop_us}, 0, 1e6),
      real("exchange", "dispatch_start_us", In{&Machine::exchange, &ExchangeCosts::dispatch_start_us}, 0, 1e6),
      real("exchange", "combine_start_us", In{&Machine::exchange, &ExchangeCosts::combine_start_us}, 0, 1e6),
      real("exchange", "skew_us", In{&Machine::exchange, &ExchangeCosts::skew_us}, 0, 1e6),
      real("exchange", "staged_start_us", In{&Machine::exchange, &ExchangeCosts::staged_start_us}, 0, 1e6),
      count("exchange", "filling_cores", In{&Machine::exchange, &ExchangeCosts::filling_cores}),
      real("slow", "rdma_gbps", In{&Machine::host_path, &HostPath::rdma_gbps}, 1e-3, 1e6),
      real("slow", "vpc_gbps", In{&Machine::host_path, &HostPath::vpc_gbps}, 1e-3, 1e6),
      real("slow", "cpu_link_gbps", In{&Machine::host_path, &HostPath::cpu_link_gbps}, 1e-3, 1e6),
      real("slow", "dram_gb", In{&Machine::host_path, &HostPath::dram_gb}, 1e-3, 1e6),
      real("slow", "ssd_gbps", In{&Machine::host_path, &HostPath::ssd_gbps}, 1e-3, 1e6),
      real("slow", "object_store_gbps", In{&Machine::host_path, &HostPath::object_store_gbps}, 1e-3, 1e6),
      real("slow", "object_store_efficiency", In{&Machine::host_path, &HostPath::object_store_efficiency}, 1e-3, 1),
      real("slow", "vpc_efficiency", In{&Machine::host_path, &HostPath::vpc_efficiency}, 1e-3, 1),
      real("slow", "pool_request_us", In{&Machine::host_path, &HostPath::pool_request_us}, 0, 1e6),
  };
  return table;
}

const KeyMember* find(std::string_view section, std::string_view key) {
  for (const KeyMember& row : key_members())
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

void store(Machine& machine, const KeyMember& row, double value) {
  const auto assign = [&](auto member) {
    auto& number = number_in(machine, member);
    number = static_cast<std::remove_reference_t<decltype(number)>>(value);
  };
  std::visit(assign, row.member);
}

const KeyMember& named(std::string_view name) {
  const auto dot = name.find('.');
  if (dot != std::string_view::npos)
    if (const KeyMember* row = find(name.substr(0, dot), name.substr(dot + 1))) return *row;
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
    for (const KeyMember& row : key_members()) all.push_back(row.key);
    return all;
  }();
  return keys;
}

Machine parse_machine(std::string_view text, const std::string& source) {
  Machine machine;
  machine.source = source;
  std::map<const KeyMember*, int> given;
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
    const KeyMember* row = find(entry.section, entry.key);
    if (!row) throw bad("unknown key");
    const std::optional<double> value = parse_number<double>(entry.value);
    if (!value) throw bad("not a finite number");
    if (const std::string why = complaint(row->key, *value); !why.empty()) throw bad(why);
    store(machine, *row, *value);
    given[row] = entry.line;
  }
  if (machine.name.empty()) throw UsageError(fmt::format("{}: [machine] name is missing", source));
  for (const KeyMember& row : key_members())
    if (!given.count(&row))
      throw UsageError(fmt::format("{}: [{}] {} is missing", source, row.key.section, row.key.key));
  check_whole(machine, source);
  return machine;
}

std::string to_text(const Machine& machine) {
  std::string text = fmt::format("[machine]\nname = {}\n", machine.name);
  std::string_view section = "machine";
  for (const KeyMember& row : key_members()) {
    if (row.key.section != section) text += fmt::format("\n[{}]\n", section = row.key.section);
    const auto number = [&](auto member) { return fmt::format("{}", number_in(machine, member)); };
    text += fmt::format("{} = {}\n", row.key.key, std::visit(number, row.member));
  }
  return text;
}

Machine load_machine(const std::string& name) {
  const std::string path = config_path("machines", name, ".ini");
  return parse_machine(read_file(path), path);
}

double get(const Machine& machine, std::string_view name) {
  return std::visit([&](auto member) -> double { return number_in(machine, member); }, named(name).member);
}

void set(Machine& machine, std::string_view name, double value) {
  const KeyMember& row = named(name);
  if (const std::string why = complaint(row.key, value); !why.empty())
    throw UsageError(fmt::format("{} = {:g}: {}", name, value, why));
  store(machine, row, value);
  check_whole(machine, std::string(name));
}

DiePlace place_of(const Machine& machine, int die) {
  if (die < 0 || die >= machine.dies())
    throw std::invalid_argument(fmt::format("die {} is outside 0..{} of {}", die, machine.dies() - 1, machine.name));
  DiePlace place;
  place.die = die;
  place.npu = die / machine.dies_per_npu;
  place.die_in_npu = die % machine.dies_per_npu;
  place.node = place.npu / machine.npus_per_node;
  place.npu_in_node = place.npu % machine.npus_per_node;
  place.first_switch = place.node * machine.fabric.planes;
  return place;
}

int hops(const Machine& machine, int from, int to) {
  const DiePlace a = place_of(machine, from), b = place_of(machine, to);
  if (a.npu == b.npu) return 0;
  return a.node == b.node ? 1 : 2;
}

}  // namespace supernode::emulation
