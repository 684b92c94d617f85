#include "launch/commands.hpp"

namespace supernode::launch {

std::span<const CommandEntry> commands() {
  static constexpr CommandEntry table[] = {
      {"topo", "topo", "the emulated machine rank by rank, and the hosts", true, make_topo},
      {"config", "config", "print the effective configuration as a file", false, make_config},
  };
  return table;
}

}  // namespace supernode::launch
