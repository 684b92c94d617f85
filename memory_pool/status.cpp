#include "memory_pool/status.hpp"

namespace supernode::pool {

std::string_view to_string(Status status) {
  constexpr std::array<std::string_view, status_count> names{"stored",      "already_there", "full",      "quota",
                                                             "too_large",   "owner_down",    "removed",   "not_there",
                                                             "not_durable", "no_namespace",  "name_clash"};
  return names.at(static_cast<std::size_t>(status));
}

std::string_view to_string(MissReason reason) {
  constexpr std::array<std::string_view, miss_reason_count> names{
      "none", "never_stored", "evicted", "other_namespace", "torn", "owner_down", "wrong_size"};
  return names.at(static_cast<std::size_t>(reason));
}

}  // namespace supernode::pool
