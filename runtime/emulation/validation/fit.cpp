#include "runtime/emulation/validation/fit.hpp"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "runtime/core/error.hpp"

namespace supernode::emulation {
namespace {

constexpr FittedConstant kConstants[] = {
    {&Machines::cloudmatrix, "fabric.read_efficiency", 0.85, "links carry about 85 % payload"},
    {&Machines::cloudmatrix, "fabric.write_efficiency", 0.75, "writes a little slower than reads"},
    {&Machines::cloudmatrix, "fabric.host_read_factor", 0.9, "host DRAM a little slower than HBM"},
    {&Machines::cloudmatrix, "fabric.host_write_factor", 0.9, "the same"},
    {&Machines::cloudmatrix, "fabric.distance_factor", 0.98, "stated: less than 3 % lost across nodes"},
    {&Machines::cloudmatrix, "fabric.read_us", 1.0, "929 ns over one hop, from a later paper"},
    {&Machines::cloudmatrix, "fabric.write_us", 1.0, "the same"},
    {&Machines::cloudmatrix, "fabric.host_saves_us", 0.2, "no HBM controller on the way"},
    {&Machines::cloudmatrix, "fabric.second_hop_us", 0.9, "stated: less than 1 us added across nodes"},
    {&Machines::cloudmatrix, "die.attention_efficiency", 0.65, "as H800 in Table 8"},
    {&Machines::cloudmatrix, "die.memory_efficiency", 0.85, "usual for HBM streams"},
    {&Machines::cloudmatrix, "die.gemm_efficiency", 0.9, "usual for large matrix products"},
    {&Machines::cloudmatrix, "die.operand_exposure", 0.5, "between full overlap and none"},
    {&Machines::cloudmatrix, "die.vector_efficiency", 0.5,
     "elementwise kernels reach about half of the memory bandwidth"},
    {&Machines::cloudmatrix, "die.operator_start_us", 5, "graph mode on such devices: a few us"},
    {&Machines::cloudmatrix, "exchange.dispatch_start_us", 30, "launch, routing of 1,152 rows, local barrier"},
    {&Machines::cloudmatrix, "exchange.combine_start_us", 15, "launch only"},
    {&Machines::cloudmatrix, "exchange.skew_us", 4, "barriers are about 15 % of a dispatch, from a later paper"},
    {&Machines::cloudmatrix, "slow.object_store_efficiency", 0.9, "HTTP over TCP"},
    {&Machines::cloudmatrix, "slow.pool_request_us", 200, "a request through user-space software on both sides"},
    {&Machines::cloudmatrix, "slow.vpc_efficiency", 0.4, "TCP on one card for a whole node"},
    {&Machines::h800, "fabric.write_efficiency", 0.9, "RDMA writes on InfiniBand"},
    {&Machines::h800, "exchange.dispatch_start_us", 5, "a GPU kernel"},
    {&Machines::h800, "exchange.combine_start_us", 10, "a GPU kernel"},
    {&Machines::h800, "exchange.skew_us", 3, "as on the other machine"},
};

double value_of(const Machines& machines, const FittedConstant& constant) {
  return get(machines.*constant.machine, constant.key);
}

/// Values stay inside what a machine file accepts.
void assign(Machines& machines, const FittedConstant& constant, double value) {
  for (const MachineKey& key : machine_keys())
    if (std::string(key.section) + "." + std::string(key.key) == constant.key)
      value = std::clamp(value, std::max(key.low, 1e-9), key.high);
  set(machines.*constant.machine, constant.key, value);
}

constexpr double kRowPct = 1;  // one residual unit
const double kPriorSpread = std::log(2.0);

using Vector = std::vector<double>;

Vector residuals(const Machines& machines, const std::vector<const ValidationRow*>& rows) {
  Vector out;
  for (const ValidationRow* row : rows) out.push_back(evaluate(machines, *row).error_pct / kRowPct);
  for (const FittedConstant& c : kConstants) out.push_back(std::log(value_of(machines, c) / c.prior) / kPriorSpread);
  return out;
}

double squares(const Vector& v) {
  double sum = 0;
  for (const double x : v) sum += x * x;
  return sum;
}

/// Solves the symmetric positive definite system in place (Gaussian elimination, no pivoting needed).
Vector solve(std::vector<Vector> a, Vector b) {
  const std::size_t n = b.size();
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t j = i + 1; j < n; ++j) {
      const double factor = a[j][i] / a[i][i];
      for (std::size_t k = i; k < n; ++k) a[j][k] -= factor * a[i][k];
      b[j] -= factor * b[i];
    }
  for (std::size_t i = n; i-- > 0;) {
    for (std::size_t k = i + 1; k < n; ++k) b[i] -= a[i][k] * b[k];
    b[i] /= a[i][i];
  }
  return b;
}

Machines fit_to(const Machines& start, const std::vector<const ValidationRow*>& rows) {
  constexpr std::size_t n = std::size(kConstants);
  Machines best = start;
  for (const FittedConstant& c : kConstants) assign(best, c, c.prior);
  Vector here = residuals(best, rows);
  double damping = 1e-2;
  for (int step = 0; step < 60; ++step) {
    std::vector<Vector> slope(n);
    for (std::size_t p = 0; p < n; ++p) {
      constexpr double kStep = 1e-4;
      // Away from an upper limit, where a forward step would be cut off.
      Machines moved = best;
      assign(moved, kConstants[p], value_of(best, kConstants[p]) * std::exp(-kStep));
      const Vector there = residuals(moved, rows);
      for (std::size_t i = 0; i < here.size(); ++i) slope[p].push_back((here[i] - there[i]) / kStep);
    }
    std::vector<Vector> normal(n, Vector(n));
    Vector gradient(n);
    for (std::size_t p = 0; p < n; ++p)
      for (std::size_t i = 0; i < here.size(); ++i) {
        gradient[p] -= slope[p][i] * here[i];
        for (std::size_t q = 0; q < n; ++q) normal[p][q] += slope[p][i] * slope[q][i];
      }
    bool better = false;
    double gained = 0;
    while (!better && damping < 1e8) {
      auto damped = normal;
      for (std::size_t p = 0; p < n; ++p) damped[p][p] *= 1 + damping;
      const Vector move = solve(damped, gradient);
      Machines trial = best;
      for (std::size_t p = 0; p < n; ++p)
        assign(trial, kConstants[p], value_of(best, kConstants[p]) * std::exp(std::clamp(move[p], -1.0, 1.0)));
      const Vector there = residuals(trial, rows);
      gained = squares(here) - squares(there);
      better = gained > 0;
      damping *= better ? 0.2 : 5;
      if (better) {
        best = trial;
        here = there;
      }
    }
    if (!better || gained < 1e-9 * squares(here)) break;
  }
  return best;
}

/// The fit rows, but for one. @param left null: all of them
std::vector<const ValidationRow*> fit_rows(const std::vector<ValidationRow>& rows, const ValidationRow* left) {
  std::vector<const ValidationRow*> used;
  for (const ValidationRow& row : rows)
    if (row.kind == FigureKind::fit && &row != left) used.push_back(&row);
  return used;
}

}  // namespace

std::span<const FittedConstant> fitted_constants() { return kConstants; }

Machines refit(const Machines& start, const std::vector<ValidationRow>& rows) {
  return fit_to(start, fit_rows(rows, nullptr));
}

std::vector<LeftOut> leave_one_out(const Machines& start, const std::vector<ValidationRow>& rows) {
  std::vector<LeftOut> results;
  for (const ValidationRow& left : rows) {
    if (left.kind != FigureKind::fit) continue;
    const Machines machines = fit_to(start, fit_rows(rows, &left));
    results.push_back({fmt::format("{} {}", left.table, left.name), summarise(machines, rows, FigureKind::predicted),
                       evaluate(machines, left).error_pct});
  }
  return results;
}

}  // namespace supernode::emulation
