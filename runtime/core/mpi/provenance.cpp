#include "runtime/core/mpi/provenance.hpp"

#include <algorithm>
#include <cstdlib>
#include <ctime>
#include <map>

#include <H5public.h>
#include <fmt/format.h>
#include <hwloc.h>
#include <mpi.h>
#include <spdlog/version.h>

#include "runtime/core/mpi/control_variable.hpp"
#include "runtime/core/mpi/mpi_call.hpp"

namespace supernode {
namespace {

std::string mpi_library() {
  char text[MPI_MAX_LIBRARY_VERSION_STRING] = "";
  int length = 0;
  MPI_Get_library_version(text, &length);
  std::string line(text, static_cast<std::size_t>(length));
  line.resize(std::min(line.find('\n'), line.size()));
  // "Open MPI v4.1.4, package: ..., ident: ...": the rest names the packager's build host.
  line.resize(std::min(line.find(", package"), line.size()));
  return line;
}

std::string utc_now() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  ::gmtime_r(&now, &parts);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts);
  return text;
}

}  // namespace

std::string version() { return SUPERNODE_VERSION; }

Json build_provenance() {
  unsigned major = 0, minor = 0, release = 0;
  H5get_libversion(&major, &minor, &release);
  const unsigned hwloc = hwloc_get_api_version();
  return {{"supernode", version()},
          {"compiler", SUPERNODE_COMPILER},
          {"build_type", SUPERNODE_BUILD_TYPE},
          {"hdf5", fmt::format("{}.{}.{}", major, minor, release)},
          {"hwloc", fmt::format("{}.{}.{}", hwloc >> 16, (hwloc >> 8) & 255, hwloc & 255)}};
}

Json run_provenance(const Communicator& world, const HostTopology& host, const std::vector<std::string>& command_line) {
  const std::vector<std::string> places = world.gather(host.host + '\n' + host.binding + '\n' + host.bound_by);
  if (world.rank() != 0) return {};

  Json env = build_provenance();
  std::map<std::string, int> ranks_by_host;
  Json ranks = Json::array();
  for (std::size_t rank = 0; rank < places.size(); ++rank) {
    const std::string& text = places[rank];
    const auto first = text.find('\n'), second = text.find('\n', first + 1);
    ++ranks_by_host[text.substr(0, first)];
    ranks.push_back({{"rank", rank},
                     {"host", text.substr(0, first)},
                     {"cores", text.substr(first + 1, second - first - 1)},
                     {"bound_by", text.substr(second + 1)}});
  }
  env["started"] = utc_now();
  env["command"] = command_line;
  env["ranks"] = world.size();
  env["hosts"] = Json::array();
  for (const auto& [name, count] : ranks_by_host) env["hosts"].push_back({{"name", name}, {"ranks", count}});
  env["cores_per_host"] = host.cores;
  env["oversubscribed"] = std::any_of(ranks_by_host.begin(), ranks_by_host.end(),
                                      [&](const auto& entry) { return entry.second > host.cores; });
  env["binding"] = std::move(ranks);
  env["mpi"] = {{"library", mpi_library()},
                {"pml", mpi_control_variable("pml")},
                {"btl", mpi_control_variable("btl")},
                {"osc", mpi_control_variable("osc")}};
  return env;
}

}  // namespace supernode
