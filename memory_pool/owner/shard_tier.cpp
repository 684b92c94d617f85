// What a shard does with its file tier: blocks that come back, and answers that wait for a write.
#include <algorithm>

#include "memory_pool/owner/shard.hpp"

namespace supernode::pool::internal {

Reply Shard::promote(const Request& request, std::span<const Key> keys) {
  Waiting waiting;
  Reply& reply = waiting.reply;
  reply.id = request.id;
  for (std::size_t i = 0; i < keys.size(); ++i) {
    if (index_.find(keys[i], request.name_space)) {
      reply.found |= std::uint64_t{1} << i;
    } else if (tier_) {
      waiting.names.push_back({keys[i], request.name_space});
      waiting.places.push_back(i);
    }
  }
  if (waiting.names.empty()) return reply;
  reply.later = ++last_tag_;
  tier_->load(last_tag_, waiting.names);
  return (waiting_[last_tag_] = std::move(waiting)).reply;
}

/// A block from the file tier becomes live. False when there is no room.
bool Shard::admit(const Name& name, const RecordLog::Payload& payload, double now) {
  Request request;
  request.key = name.key;
  request.name_space = name.name_space;
  request.length = payload.bytes.size();
  const Reply block = allocate(request, now);
  if (block.status == Status::already_there) return index_.find(name.key, name.name_space).has_value();
  if (block.status != Status::stored) return false;
  std::copy(payload.bytes.begin(), payload.bytes.end(), payload_.begin() + static_cast<long>(block.offset));
  request.ticket = block.ticket;
  request.checksum = payload.checksum;
  return publish(request, true).status == Status::stored;
}

/// `name` gets another version, or none: what is being read from the file is out of date.
void Shard::spoil(const Name& name) {
  for (auto& [tag, waiting] : waiting_)
    for (std::size_t i = 0; i < waiting.names.size(); ++i)
      if (waiting.names[i] == name) waiting.places[i] = spoiled;
}

std::vector<Reply> Shard::settle(double now) {
  std::vector<Reply> replies;
  if (!tier_) return replies;
  for (const FileTier::Done& done : tier_->poll()) {
    const auto found = waiting_.find(done.tag);
    if (found == waiting_.end()) continue;
    Waiting waiting = std::move(found->second);
    waiting_.erase(found);
    if (waiting.reply.status == Status::stored && waiting.names.empty() && !done.good)
      waiting.reply.status = Status::not_durable;
    if (waiting.reply.status == Status::not_there && done.good) waiting.reply.status = Status::removed;
    for (std::size_t i = 0; i < waiting.names.size(); ++i) {
      const std::size_t place = waiting.places[i];
      if (place == spoiled || !done.loaded[i]) continue;
      if (admit(waiting.names[i], *done.loaded[i], now)) waiting.reply.found |= std::uint64_t{1} << place;
    }
    replies.push_back(waiting.reply);
  }
  return replies;
}

}  // namespace supernode::pool::internal
