#pragma once
// Which models are in the pool, who is bringing one in, and which one gives way. One owner keeps it. Pure.

#include <cstdint>
#include <map>
#include <optional>

#include "memory_pool/key.hpp"
#include "memory_pool/status.hpp"

namespace supernode::pool::internal {

/// What a client wants of the directory; the numbers are part of the protocol.
enum class ModelStep : std::uint32_t {
  claim = 0,     ///< bring it in: stored: it is yours to do; already_there: it is resident; full: another is at it, ask
                 ///< again. Whoever has claimed renews the claim by asking again
  resident = 1,  ///< the claimant has brought it in: stored, or not_there when the claim has expired
  forget = 2,    ///< it is not there any more: removed or not_there
  pin = 3,       ///< somebody uses it, and it must not give way: stored, or not_there
  unpin = 4,     ///< stored or not_there
  make_room = 5,  ///< forgets the least recently used model without pins, other than the one asked for: removed, and
                  ///< its key; or full. The asker deletes its blocks
};

/// A model is unknown, claimed, or resident.
class ModelDirectory {
 public:
  /// @param lease s that a claim lasts without being renewed
  explicit ModelDirectory(double lease = 60) : lease_(lease) {}

  struct Answer {
    Status status{};
    Key model;  ///< of make_room
  };
  /// @param claimant distinct for everyone who claims. @param now s, steady
  Answer step(ModelStep step, const Key& model, std::uint64_t claimant, double now);

 private:
  struct Model {
    bool resident = false;
    std::uint64_t claimant = 0;
    double claimed_until = 0;
    std::uint64_t pins = 0;
    std::uint64_t used = 0;  ///< on a clock that counts uses
  };
  Status claim(const Key& key, std::uint64_t claimant, double now);
  std::optional<Key> oldest(const Key& other_than) const;

  double lease_;
  std::map<Key, Model> models_;
  std::uint64_t clock_ = 0;
};

}  // namespace supernode::pool::internal
