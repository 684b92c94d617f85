#pragma once
// A hit-rate curve as a picture, by gnuplot where it is installed.

#include <string>
#include <vector>

namespace supernode::launch {

struct CurvePoint {
  double capacity_blocks, hit_pct;
};

/// What `path` would be refused for. @throws UsageError: an ending that is none of .svg, .png, .dat, or a file that
/// exists.
void check_plot_path(const std::string& path);

/// Writes the picture, or for .dat the numbers. Without gnuplot the numbers go to `path` + ".dat".
/// @param ideal_pct a line across. @returns the file that has been written. @throws EnvironmentError when none could
/// be.
std::string plot_curve(const std::string& path, const std::vector<CurvePoint>& curve, double ideal_pct,
                       const std::string& title);

}  // namespace supernode::launch
