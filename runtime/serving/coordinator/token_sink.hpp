#pragma once
// Where the tokens of a run go.

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "runtime/serving/load/request_record.hpp"

namespace supernode::serving {

/// Called by the coordinator's loop, in order of time on the run's clock.
class TokenSink {
 public:
  virtual ~TokenSink() = default;
  /// A request has a further token.
  virtual void on_token(RequestId request, std::int32_t token, RunTime time) = 0;
  /// A request has ended; nothing of it follows.
  virtual void on_end(ServedRequest served) = 0;
};

/// Keeps what has ended, for the figures of the run.
class ServedLog : public TokenSink {
 public:
  void on_token(RequestId, std::int32_t, RunTime) override {}
  void on_end(ServedRequest served) override { served_.push_back(std::move(served)); }

  /// All that has ended, by id.
  std::vector<ServedRequest> take() {
    std::sort(served_.begin(), served_.end(),
              [](const ServedRequest& a, const ServedRequest& b) { return a.request->id < b.request->id; });
    return std::exchange(served_, {});
  }

 private:
  std::vector<ServedRequest> served_;
};

}  // namespace supernode::serving
