#pragma once
// Requests whose times of arrival are known beforehand.

#include <memory>
#include <utility>
#include <vector>

#include "runtime/serving/coordinator/request_source.hpp"

namespace supernode::serving {

class Arrivals : public RequestSource {
 public:
  /// Requests come at their arrival_s; of equal times in the order given. They are cancelled at their cancel_s; at equal
  /// times what arrives comes first.
  explicit Arrivals(std::vector<Request> requests);

  std::optional<Event> poll(RunTime now) override;
  std::optional<RunTime> next_at() const override;
  bool closed() const override { return next_ == requests_.size(); }

 private:
  std::vector<std::shared_ptr<const Request>> requests_;  ///< by arrival; null once they have come
  std::size_t next_ = 0;
  std::vector<std::pair<RunTime, RequestId>> cancellations_;  ///< by time
  std::size_t next_cancellation_ = 0;
};

}  // namespace supernode::serving
