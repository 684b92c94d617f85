#pragma once

#include "runtime/core/error.hpp"

namespace supernode::serving {

/// What the dies of an instance do together did not come to its end, because some did not take part. They are named.
class InstanceSilent : public TimeoutError {
 public:
  using TimeoutError::TimeoutError;
};

}  // namespace supernode::serving
