#include "launch/curve_plot.hpp"

#include <cstdio>
#include <cstdlib>

#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include "runtime/core/error.hpp"
#include "runtime/core/file_descriptor.hpp"
#include "runtime/core/files.hpp"

namespace supernode::launch {
namespace {

/// The text in quotes, as gnuplot reads it.
std::string quoted(const std::string& text) {
  std::string result = "'";
  for (const char c : text) result += c == '\'' ? std::string("''") : std::string(1, c);
  return result + "'";
}

bool run_gnuplot(const std::string& script) {
  if (std::system("command -v gnuplot > /dev/null 2>&1") != 0) return false;
  std::FILE* pipe = ::popen("gnuplot > /dev/null 2>&1", "w");
  if (!pipe) return false;
  const bool taken = std::fwrite(script.data(), 1, script.size(), pipe) == script.size();
  return ::pclose(pipe) == 0 && taken;
}

}  // namespace

void check_plot_path(const std::string& path, IfExists if_exists) {
  if (!path.ends_with(".svg") && !path.ends_with(".png") && !path.ends_with(".dat"))
    throw UsageError(fmt::format("--plot '{}': the name must end with .svg, .png or .dat", path));
  check_new_file(path, if_exists);
}

std::string plot_curve(const std::string& path, const std::vector<CurvePoint>& curve, double ideal_pct,
                       const std::string& title, IfExists if_exists) {
  std::string numbers;
  for (const CurvePoint& point : curve) numbers += fmt::format("{} {:.4f}\n", point.capacity_blocks, point.hit_pct);
  if (!path.ends_with(".dat")) {
    // gnuplot draws into memory: it does not say when a disk is full.
    const FileDescriptor memory(::memfd_create("picture", MFD_CLOEXEC));
    const std::string picture = fmt::format("/proc/{}/fd/{}", ::getpid(), memory.get());
    const std::string script = fmt::format(
        "set terminal {}\nset output {}\nset title {} noenhanced\nset logscale x 2\nset xlabel 'capacity, blocks'\n"
        "set ylabel 'hit rate, % of blocks'\nset yrange [0:*]\nset grid\nset key bottom right\n"
        "plot '-' using 1:2 with linespoints title 'pool', {} title 'ideal'\n{}e\n",
        path.ends_with(".svg") ? "svg size 800,500 background 'white'" : "png size 800,500", quoted(picture),
        quoted(title), ideal_pct, numbers);
    const std::string bytes = memory && run_gnuplot(script) ? read_file(picture) : std::string();
    if (!bytes.empty()) {
      write_file(path, bytes, if_exists);
      return path;
    }
  }
  const std::string file = path.ends_with(".dat") ? path : path + ".dat";
  write_file(file, "# capacity in blocks, hit rate in %\n" + numbers, if_exists);
  return file;
}

}  // namespace supernode::launch
