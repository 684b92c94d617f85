#include "memory_pool/internal/reader.hpp"

#include <algorithm>
#include <cstring>

#include "runtime/core/deadline.hpp"

namespace supernode::pool::internal {
namespace {

constexpr std::size_t slice = 256;        // buckets in flight together: 256 KiB of buffers
constexpr std::size_t unsent_limit = 64;  // touches are advice: beyond this they are dropped

bool not_in_dram(MissReason reason) {
  return reason == MissReason::never_stored || reason == MissReason::evicted || reason == MissReason::other_namespace;
}

}  // namespace

/// One key on its way through a slice.
struct Reader::Attempt {
  std::size_t item;
  int owner = -1;
  Bucket bucket;
  Entry entry;
  std::uint64_t place = 0;  ///< of `entry`, bytes from the start of the owner's memory
};

void Reader::read(std::span<const GetItem> items, bool payload, std::span<Found> result) {
  for (std::size_t start = 0; start < items.size(); start += slice) {
    const std::size_t count = std::min(slice, items.size() - start);
    read_slice(items.subspan(start, count), payload, result.subspan(start, count));
  }
  if (!core_.config.directory.empty()) {
    // What came back may have given way again before it was read.
    for (int attempt = 0; promote(items, payload, result) && attempt < core_.config.retries;) ++attempt;
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
      if (a.owner < 0 || lost(a.owner) || !core_.has_memory(a.owner)) {
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
      a.place = bucket_of(item.key, core_.layout.buckets) * sizeof(Bucket) + finding.place * sizeof(Entry);
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
      else if (!is_intact(*a, item.destination.first(a->entry.length)))
        result[a->item] = {MissReason::torn, 0, 0};
    }
    std::erase_if(pending, [&](const Attempt& a) {
      return attempt == core_.config.retries || result[a.item].reason != MissReason::torn;
    });
  }
}

/// Whether what was read is the payload of its entry.
bool Reader::is_intact(const Attempt& attempt, std::span<const std::byte> payload) {
  bool sum = true;
  if (core_.segment.shared()) {
    // The entry goes before its block is freed: if it is there still, no one has written the block meanwhile.
    Entry now;
    Transfers(core_.segment).get(attempt.owner, attempt.place, std::as_writable_bytes(std::span(&now, 1)));
    if (std::memcmp(&now, &attempt.entry, sizeof now) != 0) return false;
    sum = payload.size() <= core_.config.verify_below.value ||
          ++large_reads_ % static_cast<std::uint64_t>(core_.config.verify_every) == 0;
  }
  return !sum || checksum_of(payload) == attempt.entry.checksum;
}

/// Until all have ended or their owners have been given up; those are added to `silent`.
bool Reader::wait(Transfers& transfers, std::vector<int>& silent) {
  if (transfers.test()) return true;
  const double end = core_.watched() + core_.config.deadline;
  SpinWait spin;
  while (!transfers.test()) {
    if (core_.watched() >= end) {
      for (int owner = transfers.pending_owner(); owner >= 0; owner = transfers.pending_owner()) {
        core_.drop(owner, "did not serve a read in time");
        transfers.abandon(owner);
        silent.push_back(owner);
      }
      return false;
    }
    if (!core_.progress()) spin.turn();
  }
  return true;
}

/// What is not in DRAM may be in the file tiers: their owners bring it back, all at once, and it is read again.
/// @returns whether any that came back was not found.
bool Reader::promote(std::span<const GetItem> items, bool payload, std::span<Found> result) {
  std::map<int, std::vector<std::size_t>> missing;  // by owner
  for (std::size_t i = 0; i < items.size(); ++i) {
    const MissReason reason = result[i].reason;
    const int owner = core_.ring.owner_of(items[i].key);
    const bool not_here =
        reason == MissReason::never_stored || reason == MissReason::evicted || reason == MissReason::other_namespace;
    if (owner >= 0 && not_here) missing[owner].push_back(i);
  }
  struct Question {
    int owner;
    std::uint64_t id;
    std::span<const std::size_t> places;
  };
  std::vector<Question> questions;
  for (const auto& [owner, places] : missing)
    for (std::size_t start = 0; start < places.size(); start += max_touches) {
      const auto some = std::span(places).subspan(start, std::min(max_touches, places.size() - start));
      std::vector<Key> keys;
      for (const std::size_t place : some) keys.push_back(items[place].key);
      Request request;
      request.kind = RequestKind::promote;
      request.name_space = name_space_;
      questions.push_back({owner, core_.ask(owner, request, keys), some});
    }
  bool lost = false;
  const double end = core_.watched() + core_.config.deadline;
  SpinWait spin;
  for (const Question& question : questions) {
    std::optional<Reply> reply;
    while (!(reply = core_.take(question.id)) && core_.watched() < end)
      if (!core_.progress()) spin.turn();
    if (!reply) {
      core_.forget(question.id);
      core_.drop(question.owner, "did not look into its files in time");
      for (const std::size_t place : question.places) result[place].reason = MissReason::owner_down;
      continue;
    }
    std::vector<GetItem> again;
    std::vector<std::size_t> places;
    for (std::size_t i = 0; i < question.places.size(); ++i) {
      if (((reply->found >> i) & 1) == 0) continue;
      again.push_back(items[question.places[i]]);
      places.push_back(question.places[i]);
    }
    std::vector<Found> found(again.size());
    if (!again.empty()) read_slice(again, payload, found);
    for (std::size_t i = 0; i < places.size(); ++i) {
      result[places[i]] = found[i];
      lost |= not_in_dram(found[i].reason);
    }
  }
  return lost;
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
