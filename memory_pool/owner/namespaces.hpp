#pragma once
// What the namespaces of an owner may hold, and what they hold. Pure.

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "memory_pool/files/namespace_file.hpp"
#include "memory_pool/format/messages.hpp"
#include "memory_pool/key.hpp"
#include "memory_pool/status.hpp"

namespace supernode::pool::internal {

struct NamespaceLimits {
  std::uint64_t room = 0;          ///< bytes that may be promised in all
  std::uint64_t common_limit = 0;  ///< bytes that a namespace without a quota may fill; 0: no limit
  bool open = true;                ///< a namespace that was not created may store
};

/// A namespace that was created with a quota may fill that much and no more, and is *promised* it: only its own stores
/// evict its blocks. Room that it does not use yet is lent to namespaces without a promise, whose blocks are
/// evicted when it is wanted back. The promises together never exceed what the owner can hold, so each of them can be kept.
class Namespaces {
 public:
  Namespaces() = default;
  explicit Namespaces(const NamespaceLimits& limits) : limits_(limits) {}

  /// `quota` 0: no promise and no limit but the common one.
  /// @returns stored; already_there, and changes nothing; quota when that much cannot be promised; name_clash when
  /// `name_space` is that of another name.
  Status create(NamespaceId name_space, const std::string& name, std::uint64_t quota, NamespaceKind kind);
  /// One that an earlier run had created. The first create() with the same terms answers stored, as in that run.
  Status restore(NamespaceId name_space, const std::string& name, std::uint64_t quota);
  /// What a restart must find again: all but whole ones, which are brought in anew.
  std::vector<NamespaceTerms> lasting() const;
  /// Takes promise and limit away; what it still holds stays accounted. False when it was never created.
  bool erase(NamespaceId name_space);

  bool knows(NamespaceId name_space) const { return created_.contains(name_space); }
  bool may_store(NamespaceId name_space) const { return limits_.open || created_.contains(name_space); }
  std::uint64_t limit(NamespaceId name_space) const;  ///< bytes it may fill; 0: no limit
  bool is_promised(NamespaceId name_space) const;     ///< others' stores must not evict its blocks
  bool is_whole(NamespaceId name_space) const;

  void reserve(NamespaceId name_space, std::uint64_t bytes) { reserved_[name_space] += bytes; }
  void release(NamespaceId name_space, std::uint64_t bytes);  ///< @pre that much is reserved
  std::uint64_t reserved(NamespaceId name_space) const;       ///< bytes of its blocks, live or being written
  std::uint64_t reserved_by_all() const;

  std::uint64_t created() const { return created_.size(); }
  std::uint64_t promised() const { return promised_; }

 private:
  struct Terms {
    std::string name;
    std::uint64_t quota;
    NamespaceKind kind;
    bool restored;  ///< from the file, and not created since
  };
  const Terms* find(NamespaceId name_space) const;

  NamespaceLimits limits_;
  std::uint64_t promised_ = 0;
  std::map<NamespaceId, Terms> created_;
  std::map<NamespaceId, std::uint64_t> reserved_;
};

}  // namespace supernode::pool::internal
