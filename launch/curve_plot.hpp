#pragma once
// A hit-rate curve as a picture, by gnuplot where it is installed.

#include <string>
#include <vector>

#include "runtime/core/new_file.hpp"

namespace supernode::launch {

struct CurvePoint {
  double capacity_blocks, hit_pct;
};

/// A check that belongs before long work. @throws UsageError for an ending that is none of .svg, .png, .dat, and what
/// check_new_file() throws.
void check_plot_path(const std::string& path, IfExists if_exists);

/// Writes the picture, or for .dat the numbers. Without gnuplot the numbers go to `path` + ".dat".
/// @param ideal_pct a line across. @returns the file that has been written. @throws as NewFile when none could be.
std::string plot_curve(const std::string& path, const std::vector<CurvePoint>& curve, double ideal_pct,
                       const std::string& title, IfExists if_exists);

}  // namespace supernode::launch
