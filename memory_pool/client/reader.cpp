#include "memory_pool/client/reader.hpp"

namespace supernode::pool::internal {
namespace {

constexpr std::size_t unsent_limit = 64;  // touches are advice: beyond this they are dropped

}  // namespace

std::vector<Found> Reader::read(std::vector<GetItem> items, bool payload) {
  Read read(*this, std::move(items), payload);
  read.finish();
  return read.take_results();
}

bool Reader::advance(std::uint64_t budget) {
  bool moved = false;
  for (Read* read : active_) moved |= read->advance(budget);
  return moved;
}

void Reader::ended(const Read& read) {
  // Last first, so that of a chain of blocks the first is the most recent and outlives those that are useless without
  // it.
  for (std::size_t i = read.size(); i-- > 0;) {
    const Found found = *read.found(i);
    (read.moves_payload() ? stats_.gets : stats_.lookups).count(found.reason);
    if (!found.hit()) continue;
    if (read.moves_payload()) stats_.bytes_read += found.length;
    touch(read.items()[i].key);
  }
}

bool Reader::wants_checksum(std::uint64_t bytes) {
  return bytes <= core_.config.verify_below.value ||
         ++large_reads_ % static_cast<std::uint64_t>(core_.config.verify_every) == 0;
}

void Reader::touch(const Key& key) {
  const int owner = core_.ring.owner_of(key);
  if (owner < 0) return;
  std::vector<Key>& keys = touches_[owner];
  keys.push_back(key);
  if (keys.size() == max_touches) send_touches(owner, keys);
}

void Reader::send_touches(int owner, std::vector<Key>& keys) {
  if (!keys.empty() && core_.ring.is_live(owner) && core_.messenger.unsent() < unsent_limit) {
    Request request;
    request.kind = RequestKind::touch;
    request.name_space = name_space_;
    core_.tell(owner, request, keys);
  }
  keys.clear();
}

void Reader::flush_touches(bool all) {
  if (!all && core_.watched() - watched_at_flush_ < 0.05) return;
  watched_at_flush_ = core_.watched();
  for (auto& [owner, keys] : touches_) send_touches(owner, keys);
}

}  // namespace supernode::pool::internal
