#include "runtime/serving/fleet/step_intake.hpp"

#include <optional>

#include <fmt/format.h>

#include "runtime/core/error.hpp"
#include "runtime/serving/wire/messages.hpp"

namespace supernode::serving {
namespace {

/// Adds a part; the whole report when it was the last.
std::optional<StepReport> add(std::vector<std::byte>& bytes, std::uint64_t& left, const StepPiece& piece) {
  if (!bytes.empty() && piece.bytes.size() + piece.left != left)
    throw EnvironmentError("a part of a step's report that does not follow the one before");
  bytes.insert(bytes.end(), piece.bytes.begin(), piece.bytes.end());
  left = piece.left;
  if (left > 0) return std::nullopt;
  return decode_step_report(bytes);
}

}  // namespace

void StepIntake::take(int rank, std::span<const std::byte> message) {
  std::optional<StepReport> report;
  InstanceId instance;
  try {
    if (!log_) throw EnvironmentError("a report of a step that nobody asked for");
    const bool known = rank >= 1 && rank < world_size(config_);
    const Part part = known ? part_of(config_, rank) : Part{};
    if ((part.role != Role::prefill && part.role != Role::decode) || part.die != 0)
      throw EnvironmentError("a report of a step, but not from the first die of an instance");
    instance = {part.role == Role::decode ? emulation::Stage::decode : emulation::Stage::prefill, part.instance};
    Partial& partial = partial_[rank];
    report = add(partial.bytes, partial.left, decode_step_piece(message).what);
    const int dies = part.role == Role::decode ? config_.decode_dies : config_.prefill_dies;
    if (report && static_cast<int>(report->dies.size()) != dies)
      throw EnvironmentError(fmt::format("a step of {} dies of an instance of {}", report->dies.size(), dies));
  } catch (const EnvironmentError& error) {
    throw EnvironmentError(fmt::format("rank 0 (coordinator): from rank {}: {}", rank, error.what()));
  }
  if (!report) return;
  partial_.erase(rank);
  log_->on_step(instance, *report);
}

}  // namespace supernode::serving
