#include "runtime/core/memory_use.hpp"

#include <fstream>
#include <string>

namespace supernode {
namespace {

/// The number of "<name>: N kB" in a file of /proc/self; 0 when there is none.
std::uint64_t kilobytes(const char* file, const std::string& name) {
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);)
    if (line.starts_with(name + ":")) return std::stoull(line.substr(name.size() + 1));
  return 0;
}

}  // namespace

std::uint64_t resident_bytes() {
  std::uint64_t kb = kilobytes("/proc/self/smaps_rollup", "Pss");
  if (kb == 0) kb = kilobytes("/proc/self/status", "VmRSS");
  return kb * 1024;
}

}  // namespace supernode
