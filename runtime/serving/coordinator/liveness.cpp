#include "runtime/serving/coordinator/liveness.hpp"

#include <fmt/format.h>

#include "runtime/core/error.hpp"

namespace supernode::serving {

void Liveness::owe(int rank, std::string_view what, double now_s) {
  Owed& owed = owed_[rank];
  if (owed.count++ == 0) owed.since_s = now_s;
  owed.what = what;
}

void Liveness::reported(int rank, double now_s) {
  const auto found = owed_.find(rank);
  if (found == owed_.end())
    throw EnvironmentError(fmt::format("rank 0 (coordinator): rank {} reported something that it did not owe", rank));
  found->second.since_s = now_s;
  if (--found->second.count == 0) owed_.erase(found);
}

std::optional<Liveness::Overdue> Liveness::overdue(double now_s) const {
  for (const auto& [rank, owed] : owed_)
    if (now_s - owed.since_s >= deadline_s_) return Overdue{rank, owed.what};
  return std::nullopt;
}

bool Liveness::keep_alive_due(double now_s) {
  if (now_s - last_keep_alive_s_ < deadline_s_ / 8) return false;
  last_keep_alive_s_ = now_s;
  return true;
}

}  // namespace supernode::serving
