#pragma once
// A closed loop that keeps decode or prefill instances full: what a deployment does in the long run, without a trace.
// A request that ends is replaced at once. Pure.

#include <map>
#include <memory>
#include <optional>
#include <unordered_map>
#include <vector>

#include "runtime/serving/coordinator/request_source.hpp"
#include "runtime/serving/coordinator/token_sink.hpp"
#include "runtime/serving/load/steady.hpp"
#include "runtime/serving/serving_config.hpp"

namespace supernode::serving {

/// Where the requests come from and, as it must know when one ends, where they go: pass it as both.
class SteadyLoad : public RequestSource, public TokenSink {
 public:
  SteadyLoad(const SteadyOptions& options, const ServingConfig& config);

  std::optional<Event> poll(RunTime now) override;
  std::optional<RunTime> next_at() const override;
  bool closed() const override { return over() || coming_.empty(); }

  void on_token(RequestId request, std::int32_t token, RunTime time) override;
  void on_end(ServedRequest served) override;

  /// Enough steps were made: `steps` with as many requests as asked for, or more with fewer.
  bool over() const;
  /// Requests that ended, for the usual figures.
  std::vector<ServedRequest> take() { return log_.take(); }
  /// @pre over()
  SteadyFigures figures() const;

 private:
  /// Steps of requests that ended at one time.
  struct Ends {
    RunTime time;
    std::int64_t steps = 0, tokens = 0;
    RunSpan took{};  ///< sum
  };

  bool decode() const { return options_.stage == SteadyOptions::Stage::decode; }
  void add(RunTime at, int context, int output);
  Ends& ends_at(RunTime time);

  const SteadyOptions options_;
  const bool limited_;  ///< an objective may allow fewer requests than asked for
  int dies_ = 0;        ///< that are kept full
  ServedLog log_;
  std::multimap<RunTime, std::shared_ptr<const Request>> coming_;
  std::unordered_map<RequestId, RunTime> last_token_;
  std::vector<Ends> ends_;      ///< in order of time
  std::int64_t at_a_time_ = 0;  ///< requests
  std::int64_t steps_ = 0;      ///< of requests
  RequestId next_ = 0;
};

}  // namespace supernode::serving
