#pragma once
// Where requests come from: a trace, a rate, a network server.

#include <optional>

#include "runtime/serving/wire/events.hpp"

namespace supernode::serving {

class RequestSource {
 public:
  virtual ~RequestSource() = default;
  /// What has come by `now`, one at a time and in order: Arrived, and Cancelled of a request that has arrived. Its time is when it came, not when it was asked for: what lies
  /// between is queueing.
  virtual std::optional<Event> poll(RunTime now) = 0;
  /// When the next one comes; nothing when that is not known, or none comes.
  virtual std::optional<RunTime> next_at() const = 0;
  /// No request comes any more. One that has come may still be cancelled.
  virtual bool closed() const = 0;
};

}  // namespace supernode::serving
