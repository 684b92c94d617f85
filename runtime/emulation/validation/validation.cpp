#include "runtime/emulation/validation/validation.hpp"

#include "runtime/emulation/validation/validation_internal.hpp"

namespace supernode::emulation {

std::vector<Row> validation_rows(const ModelShape& model) {
  std::vector<Row> rows;
  internal::add_hardware_rows(rows);
  internal::add_serving_rows(rows, model);
  return rows;
}

double error_pct(double published, double modelled) { return 100 * (modelled - published) / published; }

}  // namespace supernode::emulation
