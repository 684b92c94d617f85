// What a shard does with its file tier: blocks that come back, and replies that wait for a write.
#include <algorithm>

#include "memory_pool/owner/shard.hpp"

namespace supernode::pool::internal {

Served Shard::answer(const Promote& request, double) {
  Promoted reply;
  Waiting waiting;
  for (std::size_t i = 0; i < request.keys.size(); ++i) {
    if (index_.find(request.keys[i], request.name_space)) {
      reply.in_dram |= std::uint64_t{1} << i;
    } else if (tier_) {
      waiting.names.push_back({request.keys[i], request.name_space});
      waiting.places.push_back(i);
    }
  }
  if (waiting.names.empty()) return Reply(reply);
  waiting.reply = reply;
  tier_->load(++last_tag_, waiting.names);
  waiting_[last_tag_] = std::move(waiting);
  return Deferred{last_tag_};
}

/// A block from the file tier becomes live. False when there is no room.
bool Shard::admit(const Name& name, const RecordLog::Payload& payload, double now) {
  const Allocated block = allocate({name.key, name.name_space, PutMode::keep, payload.bytes.size()}, now);
  if (block.status == Status::already_there) return index_.find(name.key, name.name_space).has_value();
  if (block.status != Status::stored) return false;
  std::copy(payload.bytes.begin(), payload.bytes.end(), payload_.begin() + static_cast<long>(block.offset));
  if (make_live(block.ticket, payload.checksum).status != Status::stored) return false;
  ++counters_.promotions;
  return true;
}

/// What is being read from the files for names that have changed since is out of date.
void Shard::invalidate(const std::function<bool(const Name&)>& changed) {
  for (auto& [tag, waiting] : waiting_)
    for (std::size_t i = 0; i < waiting.names.size(); ++i)
      if (changed(waiting.names[i])) waiting.places[i] = out_of_date;
}

std::vector<Settled> Shard::settle(double now) {
  std::vector<Settled> settled;
  if (!tier_) return settled;
  for (const FileTier::Done& done : tier_->poll()) {
    const auto found = waiting_.find(done.tag);
    if (found == waiting_.end()) continue;
    Waiting waiting = std::move(found->second);
    waiting_.erase(found);
    if (auto* published = std::get_if<Published>(&waiting.reply)) {
      if (!done.good) published->status = Status::not_durable;
    } else if (auto* created = std::get_if<NamespaceCreated>(&waiting.reply)) {
      if (!done.good) created->status = Status::not_durable;
    } else if (auto* removed = std::get_if<Removed>(&waiting.reply)) {
      if (done.good) removed->status = Status::removed;
    } else if (auto* promoted = std::get_if<Promoted>(&waiting.reply)) {
      for (std::size_t i = 0; i < waiting.names.size(); ++i) {
        const std::size_t place = waiting.places[i];
        if (place == out_of_date || !done.loaded[i]) continue;
        if (admit(waiting.names[i], *done.loaded[i], now)) promoted->in_dram |= std::uint64_t{1} << place;
      }
    }
    settled.push_back({done.tag, std::move(waiting.reply)});
  }
  return settled;
}

}  // namespace supernode::pool::internal
