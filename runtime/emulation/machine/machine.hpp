#pragma once
// The emulated machine as data: what stands in a machine file, and where a die sits in it.
// Bandwidths are in GB/s = 1e9 B/s and one direction; latencies in us. configs/machines/template.ini explains every
// key.

#include <string>
#include <string_view>
#include <vector>

namespace supernode::emulation {

/// One accelerator die: what one rank of the program plays.
struct Die {
  int matrix_cores = 0;  ///< AIC on the Ascend, SM on a GPU
  int vector_cores = 0;  ///< AIV; on a GPU the same SMs
  double int8_tops = 0;  ///< 1e12 operations a second, dense, all matrix cores
  double bf16_tflops = 0;
  double memory_gb = 0;  ///< 1e9 B
  double memory_gbps = 0;
  double gemm_efficiency = 0;       ///< of the peak, matrix products with enough rows
  double operand_exposure = 0;      ///< share of the shorter of arithmetic and operand reads that is not hidden
  double attention_efficiency = 0;  ///< of the peak, fused attention bound by arithmetic
  double memory_efficiency = 0;     ///< of memory_gbps, operators bound by memory
  double vector_efficiency = 0;     ///< of memory_gbps, elementwise operators
  double operator_start_us = 0;     ///< between two dependent operators of a stream
  double graph_launch_us = 0;       ///< host work before a graph that was not prepared ahead
};

/// The network that carries expert parallelism and pooled memory (UB on CloudMatrix384).
struct Fabric {
  int planes = 0;              ///< independent sub-planes; a die has one lane into each
  double lane_gbps = 0;        ///< of a lane, raw
  int uplinks_per_plane = 0;   ///< from a node's first-tier switch to the second tier
  int ports_per_switch = 0;    ///< of a second-tier switch chip
  double die_to_die_gbps = 0;  ///< inside an NPU
  double die_to_die_us = 0;
  double read_efficiency = 0;  ///< of the raw bandwidth, reads from another die
  double write_efficiency = 0;
  double host_read_factor = 0;  ///< reads from host DRAM, relative to reads from a die
  double host_write_factor = 0;
  double distance_factor = 0;  ///< bandwidth across nodes, relative to inside a node
  double read_us = 0;          ///< of a small read from a die in the same node
  double write_us = 0;
  double host_saves_us = 0;  ///< how much sooner host DRAM answers than a die
  double second_hop_us = 0;  ///< added across nodes
};

/// Token dispatch and combine on this machine.
struct ExchangeCosts {
  double dispatch_start_us = 0;  ///< launch, routing, barrier among the local cores, flags
  double combine_start_us = 0;
  double skew_us = 0;          ///< mean lateness of a peer; a dispatch waits for the latest of all
  double staged_start_us = 0;  ///< added to each phase that goes through the copy engine instead of direct writes
  int filling_cores = 0;       ///< vector cores that together fill the die's fabric link
};

/// The way through the hosts: their networks, their memory and the storage behind them. Section [slow] of a machine
/// file.
struct HostPath {
  double rdma_gbps = 0;          ///< of a die
  double vpc_gbps = 0;           ///< of a node
  double cpu_link_gbps = 0;      ///< fabric of one host processor
  double dram_gb = 0;            ///< of a node
  double ssd_gbps = 0;           ///< storage tier behind a node's DRAM
  double object_store_gbps = 0;  ///< of one bucket, shared by all readers
  double object_store_efficiency = 0;
  double vpc_efficiency = 0;   ///< share of vpc_gbps that pooled blocks get
  double pool_request_us = 0;  ///< software path of one block of one layer, client side
};

/// The whole machine. load_machine() is the only maker; members may be changed afterwards for what-if questions.
struct Machine {
  std::string name;
  std::string source;  ///< file it was read from
  int nodes = 0;
  int npus_per_node = 0;
  int dies_per_npu = 0;
  int cpus_per_node = 0;
  Die die;
  Fabric fabric;
  ExchangeCosts exchange;
  HostPath host_path;

  int dies() const { return nodes * npus_per_node * dies_per_npu; }
  int dies_per_node() const { return npus_per_node * dies_per_npu; }
  /// Raw fabric bandwidth of a die: one lane into each plane.
  double fabric_gbps() const { return fabric.planes * fabric.lane_gbps; }
};

/// Where a die sits. All indices count from 0; die = (node * npus_per_node + npu_in_node) * dies_per_npu + die_in_npu.
struct DiePlace {
  int die = 0;
  int npu = 0;  ///< in the machine
  int die_in_npu = 0;
  int node = 0;
  int npu_in_node = 0;
  int first_switch = 0;  ///< first-tier switch of plane p in this node: first_switch + p
};

/// @throws std::invalid_argument for a die outside the machine.
DiePlace place_of(const Machine& machine, int die);

/// Fabric switch tiers between two dies: 0 same NPU (or same die), 1 same node, 2 across nodes.
int hops(const Machine& machine, int from, int to);

/// Parses a machine file. Every key of template.ini must be there, once, and no other.
/// @throws UsageError "<source>:<line>: [section] key = value: ..." for a missing, unknown or absurd key.
Machine parse_machine(std::string_view text, const std::string& source);

/// The machine as such a file, without comments: parse_machine() gives the same values back.
std::string to_text(const Machine& machine);

/// @param name a path, or the name of a file in configs/machines without ".ini". @throws UsageError
Machine load_machine(const std::string& name);

/// One key of a machine file: for what-if options, fits and reports.
struct MachineKey {
  std::string_view section, key;
  bool whole;        ///< only integers are accepted
  double low, high;  ///< accepted values, both included
};
const std::vector<MachineKey>& machine_keys();

/// Reads or sets a number by "section.key". @throws UsageError for an unknown name or a value outside its limits.
double get(const Machine& machine, std::string_view name);
void set(Machine& machine, std::string_view name, double value);

}  // namespace supernode::emulation
