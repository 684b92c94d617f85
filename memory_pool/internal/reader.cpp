#include "memory_pool/internal/reader.hpp"

#include <algorithm>

#include "runtime/core/deadline.hpp"

namespace supernode::pool::internal {
namespace {

constexpr std::size_t slice = 256;        // buckets in flight together: 256 KiB of buffers
constexpr std::size_t unsent_limit = 64;  // touches are advice: beyond this they are dropped

}  // namespace

/// One key on its way through a slice.
struct Reader::Attempt {
  std::size_t item;
  int owner = -1;
  Bucket bucket;
  Entry entry;
};

void Reader::read(std::span<const GetItem> items, bool payload, std::span<Found> result) {
  for (std::size_t start = 0; start < items.size(); start += slice) {
    const std::size_t count = std::min(slice, items.size() - start);
    read_slice(items.subspan(start, count), payload, result.subspan(start, count));
  }
  // Last first, so that of a chain of blocks the first is the most recent and outlives those that are useless without
  // it.
  for (std::size_t i = items.size(); i-- > 0;)
    if (result[i].hit()) touch(items[i].key);
}

void Reader::read_slice(std::span<const GetItem> items, bool payload, std::span<Found> result) {
  std::vector<Attempt> pending(items.size());
  for (std::size_t i = 0; i < items.size(); ++i) pending[i].item = i;
  SpinWait spin;
  for (int attempt = 0; !pending.empty(); ++attempt) {
    if (attempt > 0) {
      // Whoever is writing may be this rank's own part.
      core_.progress();
      spin.turn();
      stats_.retries += pending.size();
    }
    std::vector<int> silent;
    const auto lost = [&](int owner) { return std::find(silent.begin(), silent.end(), owner) != silent.end(); };
    {
      Transfers buckets(core_.segment);
      for (Attempt& a : pending) {
        a.owner = core_.ring.owner_of(items[a.item].key);
        if (a.owner < 0) continue;
        const std::uint64_t bucket = bucket_of(items[a.item].key, core_.layout.buckets);
        buckets.get(a.owner, bucket * sizeof(Bucket), std::as_writable_bytes(std::span(&a.bucket, 1)));
      }
      wait(buckets, silent);
    }
    Transfers data(core_.segment);
    std::vector<Attempt*> loading;
    for (Attempt& a : pending) {
      const GetItem& item = items[a.item];
      Found& found = result[a.item];
      found = {};
      if (a.owner < 0 || lost(a.owner)) {
        found.reason = MissReason::owner_down;
        continue;
      }
      const BucketFinding finding = find_in(a.bucket, item.key, name_space_);
      found.reason = finding.reason;
      // Another owner stands in for the key's home: it is missing here because the home is gone.
      if (found.reason == MissReason::never_stored && core_.ring.home_of(item.key) != a.owner)
        found.reason = MissReason::owner_down;
      if (!found.hit()) continue;
      a.entry = finding.entry;
      found.length = a.entry.length;
      found.version = a.entry.version;
      if (!payload) continue;
      if (a.entry.length > item.destination.size()) {
        found.reason = MissReason::wrong_size;
        found.version = 0;
      } else {
        data.get(a.owner, core_.layout.payload_offset + a.entry.offset, item.destination.first(a.entry.length));
        loading.push_back(&a);
      }
    }
    wait(data, silent);
    for (const Attempt* a : loading) {
      const GetItem& item = items[a->item];
      if (lost(a->owner))
        result[a->item] = {MissReason::owner_down, 0, 0};
      else if (checksum_of(item.destination.first(a->entry.length)) != a->entry.checksum)
        result[a->item] = {MissReason::torn, 0, 0};
    }
    std::erase_if(pending, [&](const Attempt& a) {
      return attempt == core_.config.retries || result[a.item].reason != MissReason::torn;
    });
  }
}

/// Until all have ended or their owners have been given up; those are added to `silent`.
bool Reader::wait(Transfers& transfers, std::vector<int>& silent) {
  if (transfers.test()) return true;
  const double end = core_.watched() + core_.config.deadline;
  SpinWait spin;
  while (!transfers.test()) {
    if (core_.watched() >= end) {
      for (int owner = transfers.pending_owner(); owner >= 0; owner = transfers.pending_owner()) {
        core_.drop(owner, "did not serve a read");
        transfers.abandon(owner);
        silent.push_back(owner);
      }
      return false;
    }
    if (!core_.progress()) spin.turn();
  }
  return true;
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
