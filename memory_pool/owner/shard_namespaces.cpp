// What a shard does with namespaces: they come, are remembered in the file tier, and go with all their blocks.
#include "memory_pool/owner/shard.hpp"
#include "runtime/core/log.hpp"

namespace supernode::pool::internal {

Served Shard::answer(const CreateNamespace& request, double) {
  NamespaceCreated reply;
  reply.known_before = namespaces_.knows(request.name_space);
  reply.status = namespaces_.create(request.name_space, request.name, request.quota, request.eviction);
  if (!tier_ || reply.status != Status::stored || reply.known_before) return Reply(reply);
  tier_->promise(request.name_space, namespaces_.limit(request.name_space));
  if (request.eviction == NamespaceKind::whole) return Reply(reply);
  tier_->keep_namespaces(++last_tag_, namespaces_.lasting());
  return defer(reply);
}

/// A namespace of an earlier run: what it has in the files stays its own, and promised.
void Shard::restore_namespace(const NamespaceTerms& terms) {
  const NamespaceId name_space = namespace_id(terms.name);
  const Status status = namespaces_.restore(name_space, terms.name, terms.quota);
  if (status == Status::stored)
    tier_->promise(name_space, namespaces_.limit(name_space));
  else
    log(LogLevel::warning, "pool.directory: namespace '{}' has no promise of {} bytes any more: {}", terms.name,
        terms.quota, to_string(status));
}

Served Shard::answer(const DeleteNamespace& request, double) {
  const NamespaceId name_space = request.name_space;
  Removed reply;
  reply.status = namespaces_.erase(name_space) ? Status::removed : Status::not_there;
  std::vector<std::uint64_t> unfinished;
  for (const auto& [number, ticket] : tickets_)
    if (ticket.name.name_space == name_space) unfinished.push_back(number);
  for (const std::uint64_t ticket : unfinished) abandon(ticket);
  for (Slot slot = 0; slot < index_.slots(); ++slot) {
    const Entry& entry = index_.at(slot);
    if (entry.name_space != name_space || entry.state == EntryState::empty) continue;
    reply.status = Status::removed;
    if (entry.state == EntryState::live) {
      release(slot);
      ++counters_.removed;
    } else {
      index_.clear(slot);
    }
  }
  if (!tier_) return Reply(reply);
  invalidate([&](const Name& name) { return name.name_space == name_space; });
  tier_->keep_namespaces(0, namespaces_.lasting());
  tier_->remove_namespace(++last_tag_, name_space);
  return defer(reply);
}

}  // namespace supernode::pool::internal
