#pragma once
// What must hold of the results of `serve`, on any clock. With --save-detailed.

#include "runtime/core/json.hpp"
#include "tests/support/catch.hpp"

namespace supernode::test {

/// Loaded and computed tokens are the prompt's; no part is negative, and together they are the end-to-end time.
inline void check_request(const Json& request) {
  CHECK(request["hit_tokens"].get<int>() + request["computed_tokens"].get<int>() == request["input_tokens"].get<int>());
  double sum = 0;
  for (const auto& [part, value] : request["parts_ms"].items()) {
    CHECK(value.get<double>() >= 0);
    sum += value.get<double>();
  }
  CHECK(sum == Approx(request["e2el_ms"].get<double>()).epsilon(1e-12));
}

}  // namespace supernode::test
