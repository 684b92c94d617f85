#include "runtime/emulation/validation/validation.hpp"

#include <algorithm>
#include <cmath>

#include "runtime/emulation/validation/row_builder.hpp"

namespace supernode::emulation {

std::vector<ValidationRow> validation_rows(const ModelShape& model) {
  std::vector<ValidationRow> rows;
  add_hardware_rows(rows);
  add_serving_rows(rows, model);
  std::erase_if(rows, [](const ValidationRow& row) { return row.kind == FigureKind::context; });
  return rows;
}

EvaluatedRow evaluate(const Machines& machines, const ValidationRow& row) {
  EvaluatedRow result{&row, row.model(machines), 0};
  result.error_pct = 100 * (result.modelled.value - row.published) / row.published;
  return result;
}

ErrorSummary summarise(const std::vector<EvaluatedRow>& rows, FigureKind kind) {
  ErrorSummary sum;
  for (const EvaluatedRow& row : rows) {
    if (row.row->kind != kind) continue;
    ++sum.rows;
    sum.mean_abs_pct += std::abs(row.error_pct);
    sum.max_abs_pct = std::max(sum.max_abs_pct, std::abs(row.error_pct));
  }
  if (sum.rows > 0) sum.mean_abs_pct /= sum.rows;
  return sum;
}

ErrorSummary summarise(const Machines& machines, const std::vector<ValidationRow>& rows, FigureKind kind) {
  std::vector<EvaluatedRow> evaluated;
  for (const ValidationRow& row : rows)
    if (row.kind == kind) evaluated.push_back(evaluate(machines, row));
  return summarise(evaluated, kind);
}

}  // namespace supernode::emulation
