#pragma once
// The published figures against the model, row by row.

#include <functional>
#include <string>
#include <vector>

#include "runtime/emulation/machine/machine.hpp"
#include "runtime/emulation/model_shape.hpp"
#include "runtime/emulation/validation/published.hpp"

namespace supernode::emulation {

/// The machines that published figures are about.
struct Machines {
  Machine cloudmatrix, h800;
};

/// What the model says to a row, and the parts that make it up.
struct Modelled {
  double value = 0;
  std::vector<std::string> parts = {};  ///< one line each, for --explain
};

/// A published figure with the calculation that is held against it.
struct ValidationRow {
  std::string table;     ///< "7"; "text" for figures from the running text
  std::string name;      ///< unique within its table
  std::string quantity;  ///< with its unit
  double published = 0;
  FigureKind kind = FigureKind::predicted;  ///< fit or predicted
  std::function<Modelled(const Machines&)> model;
};

/// All figures that are fitted or predicted, in the order of the tables; those of kind context are left out. Reads
/// configs/published. @throws UsageError
std::vector<ValidationRow> validation_rows(const ModelShape& model);

/// A row with what the model says.
struct EvaluatedRow {
  const ValidationRow* row = nullptr;
  Modelled modelled;
  double error_pct = 0;  ///< of the modelled value, in percent of the published one
};

/// The result points to `row`, which must outlive it.
EvaluatedRow evaluate(const Machines& machines, const ValidationRow& row);

/// Errors over rows of one kind.
struct ErrorSummary {
  int rows = 0;
  double mean_abs_pct = 0, max_abs_pct = 0;
};
ErrorSummary summarise(const std::vector<EvaluatedRow>& rows, FigureKind kind);

/// Evaluates and summarises all rows of one kind.
ErrorSummary summarise(const Machines& machines, const std::vector<ValidationRow>& rows, FigureKind kind);

}  // namespace supernode::emulation
