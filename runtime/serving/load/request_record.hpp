#pragma once
// What is measured about one request, and how it ended.

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/serving/load/request.hpp"
#include "runtime/serving/load/run_time.hpp"

namespace supernode::serving {

/// Times on the run's clock.
struct RequestRecord {
  RunTime arrived{};
  RunTime prefill_started{};  ///< the first piece of its prompt was ordered
  RunTime first_token{};      ///< the coordinator has the first token
  RunTime decode_joined{};    ///< start of the first iteration that includes it
  RunTime finished{};
  RunSpan pool{};              ///< within prefill
  RunSpan prefill_exchange{};  ///< within prefill
  RunSpan decode_exchange{};   ///< within decoding
  int hit_tokens = 0, computed_tokens = 0;
  std::vector<std::int32_t> tokens;  ///< the output
  std::vector<RunTime> token_times;  ///< of each token: when its prefill was reported, or when its iteration was over
};

enum class EndReason {
  length,     ///< it has all the tokens it asked for
  stop,       ///< it drew one of its stop tokens
  cancelled,  ///< nobody wants the rest
  refused,    ///< too many waited when it came; it was not begun
  failed,     ///< it could not be computed; `detail` says why
};

/// "length", "stop" and so on.
std::string_view to_string(EndReason reason);

struct Ended {
  EndReason why{};
  std::string detail = {};
};

/// A request that has ended.
struct ServedRequest {
  std::shared_ptr<const Request> request;
  RequestRecord record;
  Ended ended;

  /// It has all its tokens.
  bool completed() const { return ended.why == EndReason::length || ended.why == EndReason::stop; }
};

/// The six disjoint parts of a request; they add up to its end-to-end time exactly. Those that it did not reach have no
/// length.
struct PartTimes {
  RunSpan queue{}, pool{}, prefill{}, handover{}, decode{}, exchange{};
  RunSpan sum() const { return queue + pool + prefill + handover + decode + exchange; }
  PartTimes& operator+=(const PartTimes& other);
};

/// @pre the request has ended
PartTimes parts_of(const RequestRecord& record);

}  // namespace supernode::serving
