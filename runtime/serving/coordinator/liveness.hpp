#pragma once
// Who owes a report since when, and when the workers must hear from the coordinator. Pure: time comes as an argument.

#include <map>
#include <optional>
#include <string>
#include <string_view>

namespace supernode::serving {

class Liveness {
 public:
  /// @param deadline_s longest wait for a report, s, > 0 @param now_s any steady clock's
  Liveness(double deadline_s, double now_s) : deadline_s_(deadline_s), last_keep_alive_s_(now_s) {}

  /// A rank owes one more report. Its time begins now, or when it has made the one that it owes already.
  void owe(int rank, std::string_view what, double now_s);
  /// A rank has reported. @throws EnvironmentError naming it when it owed nothing: a report came twice, or by itself.
  void reported(int rank, double now_s);
  /// Nobody owes anything.
  bool quiet() const { return owed_.empty(); }

  struct Overdue {
    int rank = 0;
    std::string what;
  };
  /// A rank that has owed a report for the deadline or longer. O(ranks that owe).
  std::optional<Overdue> overdue(double now_s) const;

  /// Whether the workers should be told that the coordinator is there; true eight times a deadline at the most. A
  /// worker that hears nothing for the deadline gives up.
  bool keep_alive_due(double now_s);

 private:
  struct Owed {
    std::string what;
    int count = 0;
    double since_s = 0;
  };
  const double deadline_s_;
  double last_keep_alive_s_;
  std::map<int, Owed> owed_;
};

}  // namespace supernode::serving
