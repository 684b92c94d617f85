#include "memory_pool/owner/eviction.hpp"

#include "runtime/core/error.hpp"

namespace supernode::pool::internal {

void EvictionOrder::append(Slot slot) {
  Links& links = links_[slot];
  links.used = ++clock_;
  links.older = links.list->newest;
  links.newer = none;
  (links.older == none ? links.list->oldest : links_[links.older].newer) = slot;
  links.list->newest = slot;
}

void EvictionOrder::unlink(Slot slot) {
  const Links& links = links_[slot];
  (links.older == none ? links.list->oldest : links_[links.older].newer) = links.newer;
  (links.newer == none ? links.list->newest : links_[links.newer].older) = links.older;
}

void EvictionOrder::insert(Slot slot, NamespaceId name_space) {
  expect(!contains(slot), "slot is in the eviction order already");
  List& list = lists_[name_space];
  list.name_space = name_space;
  ++list.members;
  links_[slot].list = &list;
  append(slot);
}

void EvictionOrder::touch(Slot slot) {
  if (!contains(slot) || pinned(slot)) return;
  unlink(slot);
  append(slot);
}

void EvictionOrder::erase(Slot slot) {
  if (!contains(slot)) return;
  if (!pinned(slot)) unlink(slot);
  List* const list = links_[slot].list;
  links_[slot] = {};
  if (--list->members == 0) lists_.erase(list->name_space);
}

void EvictionOrder::pin(Slot slot) {
  expect(contains(slot), "pinned a slot that is not in");
  if (links_[slot].pins++ == 0) unlink(slot);
}

void EvictionOrder::unpin(Slot slot) {
  expect(contains(slot) && pinned(slot), "unpinned a slot without pins");
  if (--links_[slot].pins == 0) append(slot);
}

std::optional<EvictionOrder::Slot> EvictionOrder::victim(NamespaceId name_space) const {
  const auto list = lists_.find(name_space);
  if (list == lists_.end() || list->second.oldest == none) return std::nullopt;
  return list->second.oldest;
}

}  // namespace supernode::pool::internal
