#include "memory_pool/client/read_context.hpp"

#include <algorithm>
#include <utility>

namespace supernode::pool::internal {
namespace {

constexpr std::size_t unsent_limit = 64;  // touches are advice: beyond this they are dropped

}  // namespace

std::vector<Found> ReadContext::read(std::vector<GetItem> items, Wanted wanted) {
  Read read(*this, std::move(items), wanted);
  read.finish();
  return read.take_results();
}

bool ReadContext::advance(std::uint64_t budget) {
  bool moved = false;
  for (Read* read : active_) moved |= read->advance(budget);
  return moved;
}

std::vector<ReadLane> ReadContext::take_lanes(std::size_t count) {
  std::vector<ReadLane> lanes = std::exchange(spare_lanes_, {});
  while (lanes.size() > count) lanes.pop_back();
  lanes.reserve(count);
  while (lanes.size() < count) lanes.emplace_back(core_.segment);
  return lanes;
}

void ReadContext::give_back(std::vector<ReadLane> lanes) {
  // A read that was given up has transfers in flight, which go with its lanes.
  const bool idle =
      std::all_of(lanes.begin(), lanes.end(), [](const ReadLane& lane) { return lane.stage == ReadLane::Stage::idle; });
  if (idle && lanes.capacity() > spare_lanes_.capacity()) spare_lanes_ = std::move(lanes);
}

void ReadContext::ended(const Read& read) {
  const bool payload = read.wanted() == Wanted::payload;
  // Last first, so that of a chain of blocks the first is the most recent and outlives those that are useless without
  // it.
  for (std::size_t i = read.size(); i-- > 0;) {
    const Found found = *read.found(i);
    (payload ? stats_.gets : stats_.lookups).count(found.reason);
    if (!found.hit()) continue;
    if (payload) stats_.bytes_read += found.length;
    touch(read.items()[i].key);
  }
}

bool ReadContext::wants_checksum(std::uint64_t bytes) {
  return bytes <= core_.config.verify_below.value ||
         ++large_reads_ % static_cast<std::uint64_t>(core_.config.verify_every) == 0;
}

void ReadContext::touch(const Key& key) {
  const int owner = core_.ring.owner_of(key);
  if (owner < 0) return;
  std::vector<Key>& keys = touches_[owner];
  if (keys.empty()) keys.reserve(max_keys);
  keys.push_back(key);
  if (keys.size() == max_keys) send_touches(owner, keys);
}

void ReadContext::send_touches(int owner, std::vector<Key>& keys) {
  if (!keys.empty() && core_.ring.is_live(owner) && core_.mailbox.unsent() < unsent_limit)
    core_.tell(owner, Touch{name_space_, std::move(keys)});
  keys.clear();
}

void ReadContext::flush_touches_now_and_then() {
  if (core_.watched() - watched_at_flush_ >= 0.05) flush_touches();
}

void ReadContext::flush_touches() {
  watched_at_flush_ = core_.watched();
  for (auto& [owner, keys] : touches_) send_touches(owner, keys);
}

}  // namespace supernode::pool::internal
