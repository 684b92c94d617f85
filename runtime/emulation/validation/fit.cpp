#include "runtime/emulation/validation/fit.hpp"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "runtime/core/error.hpp"

namespace supernode::emulation {
namespace {

constexpr FittedConstant kConstants[] = {
    {false, "fabric.read_efficiency", 0.85, "links carry about 85 % payload"},
    {false, "fabric.write_efficiency", 0.75, "writes a little slower than reads"},
    {false, "fabric.host_read_factor", 0.9, "host DRAM a little slower than HBM"},
    {false, "fabric.host_write_factor", 0.9, "the same"},
    {false, "fabric.distance_factor", 0.98, "stated: less than 3 % lost across nodes"},
    {false, "fabric.read_us", 1.0, "929 ns over one hop, from a later paper"},
    {false, "fabric.write_us", 1.0, "the same"},
    {false, "fabric.host_saves_us", 0.2, "no HBM controller on the way"},
    {false, "fabric.second_hop_us", 0.9, "stated: less than 1 us added across nodes"},
    {false, "die.attention_efficiency", 0.65, "as H800 in Table 8"},
    {false, "die.memory_efficiency", 0.85, "usual for HBM streams"},
    {false, "die.gemm_efficiency", 0.9, "usual for large matrix products"},
    {false, "die.operand_exposure", 0.5, "between full overlap and none"},
    {false, "die.vector_efficiency", 0.5, "elementwise kernels reach about half of the memory bandwidth"},
    {false, "die.operator_start_us", 5, "graph mode on such devices: a few us"},
    {false, "exchange.dispatch_start_us", 30, "launch, routing of 1,152 rows, local barrier"},
    {false, "exchange.combine_start_us", 15, "launch only"},
    {false, "exchange.skew_us", 4, "barriers are about 15 % of a dispatch, from a later paper"},
    {false, "slow.object_store_efficiency", 0.9, "HTTP over TCP"},
    {false, "slow.pool_request_us", 200, "a request through user-space software on both sides"},
    {false, "slow.vpc_efficiency", 0.4, "TCP on one card for a whole node"},
    {true, "fabric.write_efficiency", 0.9, "RDMA writes on InfiniBand"},
    {true, "exchange.dispatch_start_us", 5, "a GPU kernel"},
    {true, "exchange.combine_start_us", 10, "a GPU kernel"},
    {true, "exchange.skew_us", 3, "as on the other machine"},
};

Machine& of(Machines& machines, const FittedConstant& constant) {
  return constant.h800 ? machines.h800 : machines.cloudmatrix;
}

/// Values stay inside what a machine file accepts.
void assign(Machines& machines, const FittedConstant& constant, double value) {
  for (const MachineKey& key : machine_keys())
    if (std::string(key.section) + "." + std::string(key.key) == constant.key)
      value = std::clamp(value, std::max(key.low, 1e-9), key.high);
  set(of(machines, constant), constant.key, value);
}

constexpr double kRowPct = 1;  // one residual unit
const double kPriorSpread = std::log(2.0);

using Vector = std::vector<double>;

Vector residuals(const Machines& machines, const std::vector<const Row*>& rows) {
  Vector out;
  for (const Row* row : rows) out.push_back(error_pct(row->published, row->model(machines).value) / kRowPct);
  Machines copy = machines;
  for (const FittedConstant& c : kConstants) out.push_back(std::log(get(of(copy, c), c.key) / c.prior) / kPriorSpread);
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

Machines fit_to(const Machines& start, const std::vector<const Row*>& rows) {
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
      const double value = get(of(moved, kConstants[p]), kConstants[p].key);
      assign(moved, kConstants[p], value * std::exp(-kStep));
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
        assign(trial, kConstants[p],
               get(of(trial, kConstants[p]), kConstants[p].key) * std::exp(std::clamp(move[p], -1.0, 1.0)));
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

ErrorSummary errors(const Machines& machines, const std::vector<Row>& rows, bool fit) {
  ErrorSummary sum;
  for (const Row& row : rows) {
    if (row.fit != fit) continue;
    const double error = std::abs(error_pct(row.published, row.model(machines).value));
    ++sum.rows;
    sum.mean_abs_pct += error;
    sum.max_abs_pct = std::max(sum.max_abs_pct, error);
  }
  if (sum.rows > 0) sum.mean_abs_pct /= sum.rows;
  return sum;
}

}  // namespace

std::span<const FittedConstant> fitted_constants() { return kConstants; }

Machines refit(const Machines& start, const std::vector<Row>& rows) {
  std::vector<const Row*> used;
  for (const Row& row : rows)
    if (row.fit) used.push_back(&row);
  return fit_to(start, used);
}

std::vector<LeftOut> leave_one_out(const Machines& start, const std::vector<Row>& rows) {
  std::vector<LeftOut> results;
  for (const Row& left : rows) {
    if (!left.fit) continue;
    std::vector<const Row*> used;
    for (const Row& row : rows)
      if (row.fit && &row != &left) used.push_back(&row);
    const Machines machines = fit_to(start, used);
    results.push_back({fmt::format("{} {}", left.table, left.name), errors(machines, rows, false),
                       error_pct(left.published, left.model(machines).value)});
  }
  return results;
}

ErrorSummary summarise(const Machines& machines, const std::vector<Row>& rows, bool fit) {
  return errors(machines, rows, fit);
}

}  // namespace supernode::emulation
