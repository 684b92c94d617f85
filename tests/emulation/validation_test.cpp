// The model's accuracy, as a test that can fail.
#include "runtime/emulation/validation/validation.hpp"

#include <cmath>
#include <set>

#include "runtime/core/error.hpp"
#include "runtime/emulation/validation/fit.hpp"
#include "tests/support/catch.hpp"

using namespace supernode;
using namespace supernode::emulation;

namespace {

struct Shipped {
  Machines machines{load_machine("cloudmatrix384"), load_machine("h800")};
  std::vector<Row> rows = validation_rows(load_model_shape("deepseek-r1"));
};

}  // namespace

TEST_CASE("predicted rows are within 5 % on average and 10 % at most") {
  const Shipped s;
  const ErrorSummary predicted = summarise(s.machines, s.rows, false);
  CHECK(predicted.rows >= 35);
  CHECK(predicted.mean_abs_pct <= 5);
  CHECK(predicted.max_abs_pct <= 10);
  CHECK(summarise(s.machines, s.rows, true).max_abs_pct <= 10);
}

TEST_CASE("only these rows are fitted to") {
  const Shipped s;
  std::set<std::pair<std::string, std::string>> names;
  for (const Row& row : s.rows) {
    CHECK(names.insert({row.table, row.name}).second);
    const bool ends = row.name.find("EP8") != std::string::npos || row.name.find("EP256") != std::string::npos;
    const bool whole =
        row.table == "1" || row.table == "8-9" || (row.table == "10" && row.name.find("memory") == std::string::npos);
    const bool single = row.name == "cold_start_s ems" || row.name == "cloudmatrix_default" ||
                        row.name == "decode_layer_no_mtp" || row.name == "ems_ttft_90" || row.name == "ems_ub_over_vpc";
    INFO(row.table << " " << row.name);
    CHECK(row.fit == (whole || (row.table == "7" && ends) || single));
  }
}

TEST_CASE("the constants in the machine files are those that fitting gives") {
  const Shipped s;
  const Machines fitted = refit(s.machines, s.rows);
  for (const FittedConstant& c : fitted_constants()) {
    INFO(c.key << (c.h800 ? " of h800" : ""));
    CHECK(get(c.h800 ? s.machines.h800 : s.machines.cloudmatrix, c.key) ==
          Approx(get(c.h800 ? fitted.h800 : fitted.cloudmatrix, c.key)).epsilon(0.01));
  }
}

TEST_CASE("leaving out any one fit row moves the mean error of the predicted rows by less than 3 points") {
  const Shipped s;
  const double with_all = summarise(refit(s.machines, s.rows), s.rows, false).mean_abs_pct;
  for (const LeftOut& left : leave_one_out(s.machines, s.rows)) {
    INFO(left.row);
    CHECK(std::abs(left.predicted.mean_abs_pct - with_all) < 3);
  }
}

TEST_CASE("a worse machine is noticed") {
  Shipped s;
  set(s.machines.cloudmatrix, "die.memory_gbps", 800);
  CHECK(summarise(s.machines, s.rows, false).max_abs_pct > 10);
}
