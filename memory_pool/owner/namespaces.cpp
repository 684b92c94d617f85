#include "memory_pool/owner/namespaces.hpp"

#include "runtime/core/error.hpp"

namespace supernode::pool::internal {

const Namespaces::Terms* Namespaces::find(NamespaceId name_space) const {
  const auto found = created_.find(name_space);
  return found == created_.end() ? nullptr : &found->second;
}

Status Namespaces::create(NamespaceId name_space, const std::string& name, std::uint64_t quota, NamespaceKind kind) {
  const Terms* known = find(name_space);
  if (known && known->name != name) return Status::name_clash;
  if (known) {
    const bool same = known->restored && known->quota == quota && known->kind == kind;
    created_[name_space].restored = false;
    return same ? Status::stored : Status::already_there;
  }
  if (quota > limits_.room - promised_) return Status::quota;
  created_[name_space] = {.name = name, .quota = quota, .kind = kind, .restored = false};
  promised_ += quota;
  return Status::stored;
}

Status Namespaces::restore(NamespaceId name_space, const std::string& name, std::uint64_t quota) {
  const Status status = create(name_space, name, quota, NamespaceKind::evictable);
  if (status == Status::stored) created_[name_space].restored = true;
  return status;
}

std::vector<NamespaceTerms> Namespaces::lasting() const {
  std::vector<NamespaceTerms> terms;
  for (const auto& [name_space, each] : created_)
    if (each.kind != NamespaceKind::whole) terms.push_back({each.name, each.quota});
  return terms;
}

bool Namespaces::erase(NamespaceId name_space) {
  const auto found = created_.find(name_space);
  if (found == created_.end()) return false;
  promised_ -= found->second.quota;
  created_.erase(found);
  return true;
}

std::uint64_t Namespaces::limit(NamespaceId name_space) const {
  const Terms* terms = find(name_space);
  return terms && terms->quota > 0 ? terms->quota : limits_.common_limit;
}

bool Namespaces::is_promised(NamespaceId name_space) const {
  const Terms* terms = find(name_space);
  return terms && terms->quota > 0;
}

bool Namespaces::is_whole(NamespaceId name_space) const {
  const Terms* terms = find(name_space);
  return terms && terms->kind == NamespaceKind::whole;
}

void Namespaces::release(NamespaceId name_space, std::uint64_t bytes) {
  const auto account = reserved_.find(name_space);
  expect(account != reserved_.end() && account->second >= bytes, "a namespace gives back more than it holds");
  account->second -= bytes;
  if (account->second == 0) reserved_.erase(account);
}

std::uint64_t Namespaces::reserved(NamespaceId name_space) const {
  const auto account = reserved_.find(name_space);
  return account == reserved_.end() ? 0 : account->second;
}

std::uint64_t Namespaces::reserved_by_all() const {
  std::uint64_t sum = 0;
  for (const auto& [name_space, bytes] : reserved_) sum += bytes;
  return sum;
}

}  // namespace supernode::pool::internal
