#include "launch/curve_plot.hpp"

#include <cstdio>
#include <cstdlib>
#include <filesystem>

#include <fmt/format.h>

#include "runtime/core/error.hpp"
#include "runtime/core/files.hpp"

namespace supernode::launch {
namespace {

/// As gnuplot reads it back.
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

void check_plot_path(const std::string& path) {
  if (!path.ends_with(".svg") && !path.ends_with(".png") && !path.ends_with(".dat"))
    throw UsageError(fmt::format("--plot '{}': the name must end with .svg, .png or .dat", path));
  if (std::filesystem::exists(path)) throw UsageError(fmt::format("--plot '{}': it exists; never overwritten", path));
}

std::string plot_curve(const std::string& path, const std::vector<CurvePoint>& curve, double ideal_pct,
                       const std::string& title) {
  std::string numbers;
  for (const CurvePoint& point : curve) numbers += fmt::format("{} {:.4f}\n", point.capacity_blocks, point.hit_pct);
  if (!path.ends_with(".dat")) {
    const std::string script = fmt::format(
        "set terminal {}\nset output {}\nset title {} noenhanced\nset logscale x 2\nset xlabel 'capacity, blocks'\n"
        "set ylabel 'hit rate, % of blocks'\nset yrange [0:*]\nset grid\nset key bottom right\n"
        "plot '-' using 1:2 with linespoints title 'pool', {} title 'ideal'\n{}e\n",
        path.ends_with(".svg") ? "svg size 800,500 background 'white'" : "png size 800,500", quoted(path),
        quoted(title), ideal_pct, numbers);
    if (run_gnuplot(script) && std::filesystem::exists(path)) return path;
  }
  const std::string file = path.ends_with(".dat") ? path : path + ".dat";
  write_new_file(file, "# capacity in blocks, hit rate in %\n" + numbers);
  return file;
}

}  // namespace supernode::launch
