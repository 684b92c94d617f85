#include "moe/model/placed_experts.hpp"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <utility>

#include <fmt/format.h>

#include "runtime/core/error.hpp"

namespace supernode::moe {
namespace {

/// Calls copy(part of the storage, part of `bytes`) for what lies from byte `first` of `unit`'s weights on.
template <class Bytes, class Copy>
void for_parts(FeedForward& unit, std::size_t first, std::span<Bytes> bytes, Copy&& copy) {
  for (const std::span<std::byte> storage : unit.storage()) {
    if (first >= storage.size()) {
      first -= storage.size();
      continue;
    }
    const std::size_t count = std::min(storage.size() - first, bytes.size());
    copy(storage.subspan(first, count), bytes.first(count));
    bytes = bytes.subspan(count);
    first = 0;
  }
  expect(bytes.empty(), "bytes beyond an expert's weights");
}

}  // namespace

PlacedExperts::PlacedExperts(Checkpoint& checkpoint, const std::string& prefix, int first, int count, ComputeType type,
                             Gemm& gemm)
    : first_(first), placement_(static_cast<std::size_t>(checkpoint.config().n_routed_experts)) {
  for (int expert = first; expert < first + count; ++expert)
    experts_.emplace_back(checkpoint, fmt::format("{}experts.{}.", prefix, expert),
                          checkpoint.config().moe_intermediate_size, type, gemm);
  std::iota(placement_.begin(), placement_.end(), 0);
  slot_of_.assign(placement_.begin(), placement_.end());
}

void PlacedExperts::find_slots(std::span<const std::int32_t> chosen, std::int32_t* slots) const {
  for (const std::int32_t expert : chosen) *slots++ = expert < 0 ? -1 : slot_of_[static_cast<std::size_t>(expert)];
}

std::string PlacedExperts::format(const Gemm& gemm) const {
  std::string format;
  for (const FeedForward& unit : experts_) {
    const std::string one = unit.format(gemm);
    if (!format.empty() && one != format)
      throw UsageError(fmt::format("experts of a layer are packed in different ways: {}, {}", format, one));
    format = one;
  }
  return format;
}

std::size_t PlacedExperts::expert_bytes() const { return experts_.empty() ? 0 : experts_.front().bytes(); }

FeedForward& PlacedExperts::find(int expert) {
  const int slot = slot_of_.at(static_cast<std::size_t>(expert)) - first_;
  expect(slot >= 0 && slot < slots(), "the weights of another rank's expert");
  return experts_[static_cast<std::size_t>(slot)];
}

void PlacedExperts::read(int expert, std::size_t first, std::span<std::byte> out) {
  for_parts(find(expert), first, out,
            [](std::span<std::byte> from, std::span<std::byte> to) { std::ranges::copy(from, to.begin()); });
}

void PlacedExperts::stage(int expert, std::size_t first, std::span<const std::byte> bytes, Gemm& gemm) {
  expect(!experts_.empty(), "an expert for a rank without slots");
  const auto at = staged_.find(expert);
  Staged& staged =
      at != staged_.end() ? at->second : staged_.emplace(expert, Staged{experts_.front().copy(gemm)}).first->second;
  for_parts(staged.weights, first, bytes,
            [](std::span<std::byte> to, std::span<const std::byte> from) { std::ranges::copy(from, to.begin()); });
  staged.bytes += bytes.size();
}

void PlacedExperts::place(std::vector<int> placement) {
  expect(placement.size() == placement_.size(), "a placement of another model");
  std::vector<std::int32_t> slots(placement.size(), -1);
  for (std::size_t slot = 0; slot < placement.size(); ++slot)
    slots.at(static_cast<std::size_t>(placement[slot])) = static_cast<std::int32_t>(slot);
  expect(std::count(slots.begin(), slots.end(), -1) == 0, "a placement without some expert");
  std::vector<FeedForward> experts;
  for (int slot = first_; slot < first_ + this->slots(); ++slot) {
    const int expert = placement[static_cast<std::size_t>(slot)];
    const auto staged = staged_.find(expert);
    if (staged == staged_.end()) {
      experts.push_back(std::move(find(expert)));
      continue;
    }
    expect(staged->second.bytes == staged->second.weights.bytes(), "an expert whose weights have not come");
    experts.push_back(std::move(staged->second.weights));
  }
  staged_.clear();
  experts_ = std::move(experts);
  placement_ = std::move(placement);
  slot_of_ = std::move(slots);
}

}  // namespace supernode::moe
