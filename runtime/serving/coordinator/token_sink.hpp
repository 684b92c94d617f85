#pragma once
// Where the tokens of a run go.

#include <algorithm>
#include <cstdint>
#include <functional>
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
  /// @param on_end told of each request that has ended; may be empty
  explicit ServedLog(std::function<void(const ServedRequest&)> on_end = {}) : on_end_(std::move(on_end)) {}

  void on_token(RequestId, std::int32_t, RunTime) override {}
  void on_end(ServedRequest served) override {
    if (on_end_) on_end_(served);
    served_.push_back(std::move(served));
  }

  /// All that has ended, by id.
  std::vector<ServedRequest> take() {
    std::sort(served_.begin(), served_.end(),
              [](const ServedRequest& a, const ServedRequest& b) { return a.request->id < b.request->id; });
    return std::exchange(served_, {});
  }

 private:
  std::function<void(const ServedRequest&)> on_end_;
  std::vector<ServedRequest> served_;
};

}  // namespace supernode::serving
