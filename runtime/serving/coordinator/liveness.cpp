#include "runtime/serving/coordinator/liveness.hpp"

#include <fmt/format.h>

#include "runtime/core/error.hpp"

namespace supernode::serving {

void Liveness::owe(int rank, const OwedReport& report, double now_s) {
  const auto [entry, fresh] = by_report_.try_emplace({rank, report});
  expect(fresh, "a report is owed twice");
  entry->second = owed_.insert(owed_.end(), {rank, report, now_s});
}

bool Liveness::reported(int rank, const OwedReport& report, double now_s) {
  heard_s_[rank] = now_s;
  const auto found = by_report_.find({rank, report});
  if (found == by_report_.end() && forgiven_.erase({rank, report}) > 0) return false;
  if (found == by_report_.end())
    throw EnvironmentError(
        fmt::format("rank 0 (coordinator): rank {} reported {}, which it did not owe", rank, to_string(report)));
  owed_.erase(found->second);
  by_report_.erase(found);
  return true;
}

void Liveness::forgive(int rank, const OwedReport& report) {
  const auto found = by_report_.find({rank, report});
  if (found == by_report_.end()) return;
  owed_.erase(found->second);
  by_report_.erase(found);
  forgiven_.emplace(rank, report);
}

void Liveness::forget(int rank) {
  std::erase_if(by_report_, [&](const auto& entry) {
    if (entry.first.first != rank) return false;
    owed_.erase(entry.second);
    return true;
  });
}

std::optional<Liveness::Overdue> Liveness::overdue(double now_s) const {
  if (owed_.empty() || now_s - owed_.front().since_s < deadline_s_) return std::nullopt;
  Overdue overdue{owed_.front().rank, owed_.front().report, {}, false};
  if (const auto heard = heard_s_.find(overdue.rank); heard != heard_s_.end())
    overdue.heard_since = heard->second > owed_.front().since_s;
  // They were asked within moments of each other.
  constexpr double nearly = 0.9;
  for (const Owed& owed : owed_)
    if (owed.rank != overdue.rank && owed.report.kind == overdue.report.kind &&
        now_s - owed.since_s >= nearly * deadline_s_)
      overdue.others.push_back(owed.rank);
  return overdue;
}

bool Liveness::keep_alive_due(double now_s) {
  if (now_s - last_keep_alive_s_ < deadline_s_ / 8) return false;
  last_keep_alive_s_ = now_s;
  return true;
}

}  // namespace supernode::serving
