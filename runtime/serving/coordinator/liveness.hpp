#pragma once
// Who owes a report since when, and when the workers must hear from the coordinator. Pure: time comes as an argument.

#include <list>
#include <map>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "runtime/serving/wire/fleet_wire.hpp"

namespace supernode::serving {

/// Each report that is owed has a deadline of its own: what a rank reports meanwhile does not put it off, so KV that
/// is lost is found while its die goes on iterating.
class Liveness {
 public:
  /// @param deadline_s longest wait for a report, s, > 0 @param now_s any steady clock's; grows from call to call
  Liveness(double deadline_s, double now_s) : deadline_s_(deadline_s), last_keep_alive_s_(now_s) {}

  /// A rank owes a report from now on. @pre it does not owe this one already
  void owe(int rank, const OwedReport& report, double now_s);
  /// A rank has reported. @returns whether that is of use: a report that was forgiven is not. @throws EnvironmentError
  /// naming it when it did not owe this: a report came twice, or by itself.
  bool reported(int rank, const OwedReport& report, double now_s);
  /// The rank does not owe this report any more, if it did; it may still come once.
  void forgive(int rank, const OwedReport& report);
  /// The rank owes nothing any more, and never will.
  void forget(int rank);
  /// Nobody owes anything.
  bool quiet() const { return owed_.empty(); }

  struct Overdue {
    int rank = 0;
    OwedReport report;
    /// Ranks that have owed such a report for nearly as long: they may wait for `rank`, or it for one of them.
    std::vector<int> others;
    bool heard_since = false;  ///< `rank` has reported something else meanwhile
  };
  /// The report that has been owed for longest, if that is the deadline or longer. O(1) if not.
  std::optional<Overdue> overdue(double now_s) const;

  /// Whether the workers should be told that the coordinator is there; true eight times a deadline at the most. A
  /// worker that hears nothing for the deadline gives up.
  bool keep_alive_due(double now_s);

 private:
  struct Owed {
    int rank = 0;
    OwedReport report;
    double since_s = 0;
  };
  const double deadline_s_;
  double last_keep_alive_s_;
  std::list<Owed> owed_;  ///< the oldest first
  std::map<std::pair<int, OwedReport>, std::list<Owed>::iterator> by_report_;
  std::set<std::pair<int, OwedReport>> forgiven_;
  std::map<int, double> heard_s_;  ///< [rank]: its last report
};

}  // namespace supernode::serving
