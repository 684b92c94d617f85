#pragma once
// Which block is evicted next: the least recently used one that nobody pins, of everybody or of one namespace.

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <vector>

#include "memory_pool/key.hpp"

namespace supernode::pool::internal {

/// Order of use of the slots of an index. One list per namespace, most recent last, so that a tenant beyond its quota
/// evicts its own blocks; the victim of all is the oldest head of the lists. O(1) a call, victim() O(namespaces).
class EvictionOrder {
 public:
  using Slot = std::uint32_t;
  EvictionOrder() = default;
  explicit EvictionOrder(std::size_t slots) : links_(slots) {}

  void insert(Slot slot, NamespaceId name_space);  ///< as the most recent; `slot` is not in
  void touch(Slot slot);                           ///< now the most recent; no effect on slots that are not in
  void erase(Slot slot);                           ///< whatever its pins; no effect on slots that are not in
  bool contains(Slot slot) const { return links_[slot].list != nullptr; }

  /// A slot with pins is never a victim. Pins count; unpinning the last makes the slot the most recent.
  void pin(Slot slot);
  void unpin(Slot slot);
  bool pinned(Slot slot) const { return links_[slot].pins > 0; }

  std::optional<Slot> victim() const {
    return victim([](NamespaceId) { return true; });
  }
  std::optional<Slot> victim(NamespaceId name_space) const;
  /// The oldest of the namespaces for which `may_go(namespace)` is true.
  template <class MayGo>
  std::optional<Slot> victim(MayGo&& may_go) const requires std::predicate<MayGo, NamespaceId> {
    std::optional<Slot> oldest;
    for (const auto& [name_space, list] : lists_)
      if (list.oldest != none && (!oldest || last_use(list.oldest) < last_use(*oldest)) && may_go(name_space))
        oldest = list.oldest;
    return oldest;
  }
  /// When `slot` was used last, on a clock that counts uses.
  std::uint64_t last_use(Slot slot) const { return links_[slot].used; }

 private:
  static constexpr Slot none = ~Slot{0};
  struct List {
    NamespaceId name_space = 0;
    std::size_t members = 0;  ///< pinned ones too, which hang in no chain
    Slot oldest = none, newest = none;
  };
  struct Links {
    Slot older = none, newer = none;
    std::uint64_t used = 0;
    List* list = nullptr;  ///< null: not in
    std::uint32_t pins = 0;
  };
  void append(Slot slot);
  void unlink(Slot slot);

  std::vector<Links> links_;           ///< by slot
  std::map<NamespaceId, List> lists_;  ///< nodes stay where they are: links_ points to them
  std::uint64_t clock_ = 0;
};

}  // namespace supernode::pool::internal
