#pragma once
// What one owner of pooled blocks has to give or to take.

#include <cstdint>

namespace supernode::serving {

struct OwnerShare {
  int owner = 0;            ///< cache rank, from 0
  std::int64_t bytes = 0;   ///< more than 0
  std::int64_t pieces = 0;  ///< requests that move them: one for each layer of a block; at least 1

  friend bool operator==(const OwnerShare&, const OwnerShare&) = default;
};

}  // namespace supernode::serving
