#pragma once
// The published tables against the model, row by row.

#include <functional>
#include <string>
#include <vector>

#include "runtime/emulation/machine/machine.hpp"
#include "runtime/emulation/model_shape.hpp"

namespace supernode::emulation {

/// The machines that published rows are about.
struct Machines {
  Machine cloudmatrix, h800;
};

/// What the model says to a row, and the parts that make it up.
struct Modelled {
  double value = 0;
  std::vector<std::string> parts;  ///< one line each, for --explain
};

struct Row {
  std::string table;     ///< "7"; "text" for figures from the running text
  std::string name;      ///< unique within its table
  std::string quantity;  ///< with its unit
  double published = 0;
  bool fit = false;  ///< constants were fitted to it; else predicted
  std::function<Modelled(const Machines&)> model;
};

/// All rows, in the order of the tables. Reads configs/published. @throws UsageError
std::vector<Row> validation_rows(const ModelShape& model);

/// Error of a modelled value, in percent of the published one.
double error_pct(double published, double modelled);

/// Errors over the rows of one kind.
struct ErrorSummary {
  int rows = 0;
  double mean_abs_pct = 0, max_abs_pct = 0;
};

}  // namespace supernode::emulation
