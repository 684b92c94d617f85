#pragma once
// A batch of one-sided, verified reads as small state machines: bucket -> payload -> check, nobody waiting.

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <vector>

#include "memory_pool/client.hpp"
#include "memory_pool/owner/bucket_table.hpp"
#include "memory_pool/transport/pool_core.hpp"

namespace supernode::pool::internal {

class ReadContext;

/// What a read wants of its keys.
enum class Wanted {
  entry,    ///< whether they are there: a lookup
  payload,  ///< their bytes
};

/// Takes one item after the other to its end.
struct ReadLane {
  enum class Stage {
    idle,    ///< it has no item
    start,   ///< nothing is in flight
    bucket,  ///< the bucket is
    ready,   ///< the entry is known, and the payload not yet asked for
    data,    ///< the payload is in flight
  };
  explicit ReadLane(Segment& segment) : transfer(segment) {}
  Stage stage = Stage::idle;
  std::size_t item = 0;
  int attempt = 0;
  int owner = -1;
  double since = 0;  ///< watched() when the transfer began
  Bucket bucket;
  Entry entry;
  std::uint64_t place = 0;  ///< of `entry`, bytes from the start of the owner's memory
  Transfers transfer;
};

class Read {
 public:
  /// `context` outlives it.
  Read(ReadContext& context, std::vector<GetItem> items, Wanted wanted);
  /// Gives up what is in flight: destinations stay untouched from then on.
  ~Read();
  Read(const Read&) = delete;
  Read& operator=(const Read&) = delete;

  /// Moves everything as far as it goes without waiting; begins no further copy once `budget` bytes have been copied.
  /// @returns whether anything moved.
  bool advance(std::uint64_t budget);
  /// Turns until done(), serving this rank's own part meanwhile.
  void finish();

  bool done() const { return ended_ == items_.size(); }
  std::size_t size() const { return items_.size(); }
  /// Of item `i`; empty as long as it is under way.
  std::optional<Found> found(std::size_t i) const;
  std::vector<Found> take_results() { return std::move(results_); }
  ReadContext& context() { return context_; }
  Wanted wanted() const { return wanted_; }
  std::span<const GetItem> items() const { return items_; }

 private:
  using Stage = ReadLane::Stage;
  /// A request to bring blocks back from an owner's files.
  struct Question {
    int owner;
    std::uint64_t id;
    std::vector<std::size_t> items;
  };

  bool step(ReadLane& lane);
  bool start(ReadLane& lane);
  bool judge(ReadLane& lane);
  bool load(ReadLane& lane);
  bool check(ReadLane& lane);
  bool expire(ReadLane& lane);
  bool is_intact(const ReadLane& lane) const;
  void end(ReadLane& lane, const Found& found);
  void settle(std::size_t item, const Found& found);
  bool request_promotions();
  bool take_in_promotions();

  ReadContext& context_;
  PoolCore& core_;
  std::vector<GetItem> items_;
  Wanted wanted_;
  std::vector<Found> results_;
  std::vector<bool> has_ended_;
  std::size_t ended_ = 0;
  std::vector<std::size_t> todo_;     ///< items of this round
  std::size_t next_ = 0;              ///< in todo_
  std::vector<std::size_t> missing_;  ///< items of this round that are not in DRAM
  int rounds_ = 0;                    ///< of questions for files so far
  std::vector<Question> questions_;
  double asked_at_ = 0;  ///< watched() when the questions were
  std::vector<ReadLane> lanes_;
  std::uint64_t copied_ = 0;     ///< bytes since advance() was called
  std::uint64_t in_flight_ = 0;  ///< bytes of payload that are staged
};

}  // namespace supernode::pool::internal
