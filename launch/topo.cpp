// supernode topo: who is who. The emulated place of every rank's die, and the host it really runs on.
#include <map>

#include <fmt/format.h>

#include "launch/commands.hpp"
#include "runtime/core/error.hpp"
#include "runtime/core/mpi/agreement.hpp"
#include "runtime/emulation/machine/machine.hpp"

namespace supernode::launch {
namespace {

class TopoCommand : public Command {
 public:
  void describe(OptionTable& table) override {
    table.add("topo", "machine", machine_, "emulated machine: a name in configs/machines, or a file");
  }

  int run(const Context& context) override {
    const Communicator& world = *context.world;
    const emulation::Machine machine = collectively(world, [&] { return emulation::load_machine(machine_); });
    if (world.size() > machine.dies())
      throw AgreedError(ExitCode::usage, fmt::format("machine '{}' has {} dies, but the world has {} ranks",
                                                     machine.name, machine.dies(), world.size()));
    const emulation::DiePlace place = emulation::place_of(machine, world.rank());
    const HostTopology& host = context.host;
    const Json mine{{"rank", world.rank()},           {"die", place.die},   {"npu", place.npu},
                    {"die_in_npu", place.die_in_npu}, {"node", place.node}, {"first_switch", place.first_switch},
                    {"host", to_json(host)}};
    const std::vector<std::string> rows = world.gather(mine.dump());
    Json results{{"machine",
                  {{"name", machine.name},
                   {"source", machine.source},
                   {"nodes", machine.nodes},
                   {"npus", machine.nodes * machine.npus_per_node},
                   {"dies", machine.dies()},
                   {"planes", machine.fabric.planes},
                   {"fabric_gbps_per_die", machine.fabric_gbps()}}},
                 {"ranks", Json::array()}};
    std::string text;
    if (context.is_root()) {
      std::map<std::string, double> quotas;
      text = fmt::format("# machine {}: {} nodes x {} NPUs x {} dies = {} dies; {} planes, {:g} GB/s per die\n",
                         machine.name, machine.nodes, machine.npus_per_node, machine.dies_per_npu, machine.dies(),
                         machine.fabric.planes, machine.fabric_gbps());
      text += fmt::format("{:>5} {:>5} {:>5} {:>5}  {:<20} {:>5} {:>5} {:<12} {}\n", "#rank", "die", "npu", "node",
                          "host", "cores", "numa", "bound_to", "bound_by");
      for (const std::string& row : rows) {
        const Json rank = Json::parse(row);
        const Json& h = rank["host"];
        text += fmt::format("{:>5} {:>5} {:>5} {:>5}  {:<20} {:>5} {:>5} {:<12} {}\n", rank["rank"].get<int>(),
                            rank["die"].get<int>(), rank["npu"].get<int>(), rank["node"].get<int>(),
                            h["host"].get<std::string>(), h["cores"].get<int>(), h["numa_nodes"].get<int>(),
                            h["binding"].get<std::string>(), h["bound_by"].get<std::string>());
        results["ranks"].push_back(rank);
        if (!h["cpu_quota"].is_null()) quotas[h["host"].get<std::string>()] = h["cpu_quota"].get<double>();
      }
      for (const auto& [name, quota] : quotas)
        text += fmt::format("# {}: the control group grants {:g} processors\n", name, quota);
    }
    report(context, "topo", results, text);
    return static_cast<int>(ExitCode::good);
  }

 private:
  std::string machine_ = "cloudmatrix384";
};

}  // namespace

std::unique_ptr<Command> make_topo() { return std::make_unique<TopoCommand>(); }

}  // namespace supernode::launch
