#pragma once
// Which models are in the pool, who is bringing one in, and which one goes next. One owner keeps it. Pure.

#include <cstdint>
#include <map>
#include <optional>

#include "memory_pool/format/messages.hpp"
#include "memory_pool/key.hpp"
#include "memory_pool/status.hpp"

namespace supernode::pool::internal {

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
