// supernode validate: the published tables against the modelled machine; fails beyond the tolerance.
#include <algorithm>
#include <cmath>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "launch/commands.hpp"
#include "moe/model_shape.hpp"
#include "runtime/core/error.hpp"
#include "runtime/emulation/validation/fit.hpp"
#include "runtime/emulation/validation/validation.hpp"

namespace supernode::launch {

namespace {

using namespace emulation;

struct Options {
  std::string machine = "cloudmatrix384";
  std::string h800 = "h800";
  std::string model = "deepseek-r1";
  std::string table;
  std::string explain;
  double tolerance = 5;
  double row_tolerance = 10;
  bool refit = false;
  bool leave_one_out = false;
};

const char* short_name(const FittedConstant& constant) {
  return constant.machine == &Machines::h800 ? "h800" : "cm384";
}

std::string constants_text(const Machines& machines) {
  std::string text = "constants, fitted to the rows marked fit:\n";
  for (const FittedConstant& c : fitted_constants())
    text += fmt::format("  {:<6} {:<32} {:>10.4g}   prior {:>6g}: {}\n", short_name(c), c.key,
                        get(machines.*c.machine, c.key), c.prior, c.reason);
  return text + "\n";
}

std::string rows_text(const std::vector<EvaluatedRow>& results, const Options& options) {
  std::string text = fmt::format("{:<6} {:<44} {:<18} {:>10} {:>10} {:>8}  {}\n", "table", "row", "quantity",
                                 "published", "modelled", "error %", "kind");
  for (const EvaluatedRow& r : results) {
    text += fmt::format("{:<6} {:<44} {:<18} {:>10.6g} {:>10.6g} {:>8.2f}  {}{}\n", r.row->table, r.row->name,
                        r.row->quantity, r.row->published, r.modelled.value, r.error_pct, name_of(r.row->kind),
                        std::abs(r.error_pct) > options.row_tolerance ? "  BEYOND" : "");
    if (!options.explain.empty())
      for (const std::string& part : r.modelled.parts) text += "         " + part + "\n";
  }
  return text;
}

std::string summary_text(const ErrorSummary& sum, FigureKind kind) {
  return fmt::format("{:<10} {:3} rows, mean absolute error {:5.2f} %, largest {:5.2f} %\n",
                     fmt::format("{}:", name_of(kind)), sum.rows, sum.mean_abs_pct, sum.max_abs_pct);
}

/// The rows' part of the document.
Json rows_json(const std::vector<EvaluatedRow>& results) {
  Json rows = Json::array();
  for (const EvaluatedRow& r : results)
    rows.push_back({{"table", r.row->table},
                    {"row", r.row->name},
                    {"quantity", r.row->quantity},
                    {"published", r.row->published},
                    {"modelled", r.modelled.value},
                    {"error_pct", r.error_pct},
                    {"kind", name_of(r.row->kind)}});
  return rows;
}

class ValidateCommand : public Command {
 public:
  void describe(OptionTable& table) override {
    const char* own = "validate";
    table.add(own, "machine", options_.machine, "machine file held against the CloudMatrix384 rows");
    table.add(own, "h800", options_.h800, "machine file held against the H800 columns");
    table.add(own, "model", options_.model, "model of the published evaluation");
    table.add(own, "table", options_.table, "only this table: 1, 2, ... or text");
    table.add(own, "explain", options_.explain, "only the rows of this name, with the terms that make them up");
    table.add(own, "tolerance", options_.tolerance, "largest mean absolute error of predicted rows, %").range(0, 1e6);
    table.add(own, "row_tolerance", options_.row_tolerance, "largest absolute error of any row, %").range(0, 1e6);
    table.add(own, "refit", options_.refit, "fit the constants anew instead of taking them from the machine files");
    table.add(own, "leave_one_out", options_.leave_one_out, "also refit without each fit row in turn");
  }

  int run(const Context& context) override {
    Machines machines{load_machine(options_.machine), load_machine(options_.h800)};
    const std::vector<ValidationRow> rows = validation_rows(moe::load_model_shape(options_.model));
    std::string text = fmt::format("# modelled: {} and {}\n", machines.cloudmatrix.source, machines.h800.source);
    Json constants = Json::object();
    if (options_.refit) {
      machines = refit(machines, rows);
      text += constants_text(machines);
      for (const FittedConstant& c : fitted_constants())
        constants[fmt::format("{}:{}", short_name(c), c.key)] = get(machines.*c.machine, c.key);
    }

    const std::vector<EvaluatedRow> results = wanted_rows(machines, rows);
    text += rows_text(results, options_);
    Json json{{"rows", rows_json(results)}};
    const ErrorSummary fitted = summarise(results, FigureKind::fit),
                       predicted = summarise(results, FigureKind::predicted);
    const bool passed = predicted.mean_abs_pct <= options_.tolerance &&
                        std::max(predicted.max_abs_pct, fitted.max_abs_pct) <= options_.row_tolerance;
    text += "\n" + summary_text(fitted, FigureKind::fit) + summary_text(predicted, FigureKind::predicted);
    text += fmt::format("{}: tolerance {:g} % mean of predicted rows, {:g} % any row\n", passed ? "passed" : "FAILED",
                        options_.tolerance, options_.row_tolerance);
    json["mean_abs_error_pct"] = {{"fit", fitted.mean_abs_pct}, {"predicted", predicted.mean_abs_pct}};
    json["max_abs_error_pct"] = {{"fit", fitted.max_abs_pct}, {"predicted", predicted.max_abs_pct}};
    json["passed"] = passed;
    if (options_.refit) json["constants"] = constants;
    if (options_.leave_one_out) text += leave_out(machines, rows, json);
    report(context, "validate", json, text);
    return static_cast<int>(passed ? ExitCode::good : ExitCode::check_failed);
  }

 private:
  /// The rows that the options ask for, with what the model says.
  std::vector<EvaluatedRow> wanted_rows(const Machines& machines, const std::vector<ValidationRow>& rows) const {
    std::vector<EvaluatedRow> results;
    std::vector<std::string> tables;
    std::string near;
    for (const ValidationRow& row : rows) {
      if (std::find(tables.begin(), tables.end(), row.table) == tables.end()) tables.push_back(row.table);
      if (!options_.table.empty() && row.table != options_.table) continue;
      if (!options_.explain.empty() && row.name != options_.explain) {
        if (row.name.find(options_.explain) != std::string::npos) near += fmt::format(" '{}'", row.name);
        continue;
      }
      results.push_back(evaluate(machines, row));
    }
    if (!options_.table.empty() && std::find(tables.begin(), tables.end(), options_.table) == tables.end())
      throw UsageError(fmt::format("--table '{}' is unknown; known: {}", options_.table, fmt::join(tables, " ")));
    if (results.empty())
      throw UsageError(fmt::format("--explain '{}' is no row; {}", options_.explain,
                                   near.empty() ? "`supernode validate` lists them" : "did you mean one of" + near));
    return results;
  }

  static std::string leave_out(const Machines& machines, const std::vector<ValidationRow>& rows, Json& json) {
    const double with_all = summarise(refit(machines, rows), rows, FigureKind::predicted).mean_abs_pct;
    std::string text = fmt::format(
        "\nrefitted without one fit row; with all of them the predicted rows' mean is {:.2f} %\n", with_all);
    text += fmt::format("{:<50} {:>16} {:>10} {:>14}\n", "without", "predicted mean %", "moved by", "its own error %");
    json["leave_one_out"] = Json::array();
    double most = 0;
    for (const LeftOut& left : leave_one_out(machines, rows)) {
      const double moved = left.predicted.mean_abs_pct - with_all;
      most = std::max(most, std::abs(moved));
      text += fmt::format("{:<50} {:>16.2f} {:>+10.2f} {:>14.2f}\n", left.row, left.predicted.mean_abs_pct, moved,
                          left.own_error_pct);
      json["leave_one_out"].push_back({{"without", left.row},
                                       {"mean_abs_error_pct", left.predicted.mean_abs_pct},
                                       {"moved", moved},
                                       {"own_error_pct", left.own_error_pct}});
    }
    return text + fmt::format("largest move: {:.2f} points\n", most);
  }

  Options options_;
};

}  // namespace

std::unique_ptr<Command> make_validate() { return std::make_unique<ValidateCommand>(); }

}  // namespace supernode::launch
