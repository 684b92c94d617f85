#include "memory_pool/client/read.hpp"

#include <algorithm>
#include <cstring>
#include <limits>
#include <numeric>

#include "memory_pool/client/read_context.hpp"
#include "runtime/core/mpi/deadline.hpp"

namespace supernode::pool::internal {
namespace {

constexpr std::size_t most_lanes = 256;                // items in flight together: 256 KiB of buckets
constexpr std::uint64_t most_in_flight = 64ull << 20;  // bytes of payload in MPI's hands, through buffers of ours

bool not_in_dram(MissReason reason) {
  return reason == MissReason::never_stored || reason == MissReason::evicted || reason == MissReason::other_namespace;
}

}  // namespace

Read::Read(ReadContext& context, std::vector<GetItem> items, Wanted wanted)
    : context_(context),
      core_(context.core()),
      items_(std::move(items)),
      wanted_(wanted),
      results_(items_.size()),
      has_ended_(items_.size()),
      todo_(items_.size()) {
  std::iota(todo_.begin(), todo_.end(), 0);
  // In shared memory a transfer ends where it begins: one lane takes all items in turn, and its bucket stays in cache.
  lanes_ = context_.take_lanes(std::min(core_.segment.shared() ? 1 : most_lanes, items_.size()));
  context_.enter(*this);
}

Read::~Read() {
  context_.leave(*this);
  context_.give_back(std::move(lanes_));
  for (const Question& question : questions_) core_.forget(question.id);
}

std::optional<Found> Read::found(std::size_t i) const {
  if (!has_ended_[i]) return std::nullopt;
  return results_[i];
}

bool Read::advance(std::uint64_t budget) {
  if (done()) return false;
  bool moved = false;
  copied_ = 0;
  while (true) {
    bool idle = true;
    for (ReadLane& lane : lanes_) {
      while (copied_ < budget && step(lane)) moved = true;
      idle &= lane.stage == Stage::idle;
    }
    if (!idle || next_ < todo_.size()) return moved;
    // The round is over. What is not in DRAM may be in the files.
    if (!questions_.empty()) {
      if (!take_in_promotions()) return moved;
    } else if (!request_promotions()) {
      context_.ended(*this);
      return true;
    }
    moved = true;
  }
}

void Read::finish() {
  SpinWait spin;
  while (!done())
    if (!advance(std::numeric_limits<std::uint64_t>::max()) && !core_.progress()) spin.turn();
}

bool Read::step(ReadLane& lane) {
  switch (lane.stage) {
    case Stage::idle:
      if (next_ == todo_.size()) return false;
      lane.item = todo_[next_++];
      lane.attempt = 0;
      return start(lane);
    case Stage::start:
      return start(lane);
    case Stage::bucket:
      return lane.transfer.test() ? judge(lane) : expire(lane);
    case Stage::ready:
      return load(lane);
    case Stage::data:
      return lane.transfer.test() ? check(lane) : expire(lane);
  }
  return false;
}

bool Read::start(ReadLane& lane) {
  const Key& key = items_[lane.item].key;
  lane.owner = core_.ring.owner_of(key);
  if (lane.owner < 0) {
    end(lane, {MissReason::owner_down, 0, 0});
    return true;
  }
  lane.place = bucket_of(key, core_.layout.buckets) * sizeof(Bucket);
  lane.since = core_.watched();
  lane.transfer.get(lane.owner, lane.place, std::as_writable_bytes(std::span(&lane.bucket, 1)));
  lane.stage = Stage::bucket;
  return true;
}

/// What the bucket says of the key.
bool Read::judge(ReadLane& lane) {
  const GetItem& item = items_[lane.item];
  if (!core_.has_memory(lane.owner)) {
    end(lane, {MissReason::owner_down, 0, 0});
    return true;
  }
  const BucketFinding finding = find_in(lane.bucket, item.key, context_.name_space());
  Found found{finding.reason, finding.entry.length, finding.entry.version};
  // Another owner stands in for the key's home: it is missing here because the home is gone.
  if (found.reason == MissReason::never_stored && core_.ring.home_of(item.key) != lane.owner)
    found.reason = MissReason::owner_down;
  if (found.hit() && wanted_ == Wanted::payload) {
    lane.entry = finding.entry;
    lane.place += finding.place * sizeof(Entry);
    lane.stage = Stage::ready;
    if (lane.entry.length > item.destination.size()) end(lane, {MissReason::wrong_size, lane.entry.length, 0});
    return true;
  }
  const bool torn = found.reason == MissReason::torn;
  end(lane, found);
  return !torn || lane.stage == Stage::idle;
}

bool Read::load(ReadLane& lane) {
  const std::uint64_t length = lane.entry.length;
  if (in_flight_ > 0 && in_flight_ + length > most_in_flight) return false;
  lane.since = core_.watched();
  lane.transfer.get(lane.owner, core_.layout.payload_offset + lane.entry.offset,
                    items_[lane.item].destination.first(length));
  if (core_.segment.shared())
    copied_ += length;
  else
    in_flight_ += length;
  lane.stage = Stage::data;
  return true;
}

/// Whether what has come is the payload of its entry.
bool Read::check(ReadLane& lane) {
  const bool intact = is_intact(lane);
  end(lane, intact ? Found{MissReason::none, lane.entry.length, lane.entry.version} : Found{MissReason::torn, 0, 0});
  return lane.stage == Stage::idle;
}

bool Read::is_intact(const ReadLane& lane) const {
  const std::span<const std::byte> payload = items_[lane.item].destination.first(lane.entry.length);
  if (core_.segment.shared()) {
    // The entry goes before its block is freed: if it is there still, no one has written the block meanwhile.
    Entry now;
    Transfers(core_.segment).get(lane.owner, lane.place, std::as_writable_bytes(std::span(&now, 1)));
    if (std::memcmp(&now, &lane.entry, sizeof now) != 0) return false;
    if (!context_.wants_checksum(payload.size())) return true;
  }
  return checksum_of(payload) == lane.entry.checksum;
}

/// A transfer that has not ended: gives its owner up when that is silent for too long, or has left the view.
bool Read::expire(ReadLane& lane) {
  const bool gone = !core_.ring.is_live(lane.owner);
  if (!gone && core_.watched() - lane.since < core_.config.deadline) return false;
  if (!gone) core_.drop(lane.owner, "did not serve a read in time");
  lane.transfer.abandon(lane.owner);
  end(lane, {MissReason::owner_down, 0, 0});
  return true;
}

/// The end of an attempt. A torn one is made again, at the next turn: whoever is writing may be this rank's own part.
void Read::end(ReadLane& lane, const Found& found) {
  if (lane.stage == Stage::data && !core_.segment.shared()) in_flight_ -= lane.entry.length;
  if (found.reason == MissReason::torn && lane.attempt < core_.config.retries) {
    ++lane.attempt;
    context_.count_retry();
    lane.stage = Stage::start;
    return;
  }
  lane.stage = Stage::idle;
  results_[lane.item] = found;
  if (not_in_dram(found.reason) && !core_.config.directory.empty() && rounds_ <= core_.config.retries)
    missing_.push_back(lane.item);
  else
    settle(lane.item, found);
}

void Read::settle(std::size_t item, const Found& found) {
  results_[item] = found;
  has_ended_[item] = true;
  ++ended_;
}

/// Asks the owners of all items that are not in DRAM to bring them back from their files. False when there are none.
bool Read::request_promotions() {
  std::map<int, std::vector<std::size_t>> by_owner;
  for (const std::size_t item : missing_) {
    const int owner = core_.ring.owner_of(items_[item].key);
    if (owner >= 0)
      by_owner[owner].push_back(item);
    else
      settle(item, {MissReason::owner_down, 0, 0});
  }
  missing_.clear();
  if (by_owner.empty()) return false;
  for (const auto& [owner, all] : by_owner)
    for (std::size_t start = 0; start < all.size(); start += max_keys) {
      Question question{owner, 0, {}};
      std::vector<Key> keys;
      for (std::size_t i = start; i < std::min(start + max_keys, all.size()); ++i) {
        question.items.push_back(all[i]);
        keys.push_back(items_[all[i]].key);
      }
      question.id = core_.ask(owner, Promote{context_.name_space(), std::move(keys)});
      questions_.push_back(std::move(question));
    }
  asked_at_ = core_.watched();
  ++rounds_;
  return true;
}

/// Takes in answers; what is back is read as any other item. It may have been evicted again before that, and is
/// asked for once more then. False while answers are missing.
bool Read::take_in_promotions() {
  if (next_ == todo_.size()) {
    todo_.clear();
    next_ = 0;
  }
  std::erase_if(questions_, [this](const Question& question) {
    if (const std::optional<Promoted> reply = core_.take<Promoted>(question.id)) {
      for (std::size_t i = 0; i < question.items.size(); ++i) {
        const std::size_t item = question.items[i];
        if ((reply->in_dram >> i) & 1)
          todo_.push_back(item);
        else
          settle(item, results_[item]);
      }
      return true;
    }
    const bool gone = !core_.ring.is_live(question.owner);
    if (!gone && core_.watched() - asked_at_ < core_.config.deadline) return false;
    core_.forget(question.id);
    core_.drop(question.owner, "did not look into its files in time");
    for (const std::size_t item : question.items) settle(item, {MissReason::owner_down, 0, 0});
    return true;
  });
  return questions_.empty();
}

}  // namespace supernode::pool::internal
