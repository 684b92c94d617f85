#pragma once
// Many exchanges of one group of dies, each as a whole. The model is that of departure_of() and completion_of()
// (exchange.hpp); what is different is the cost: what the places of the dies decide is worked out once, and the ports of
// a node's dies are followed together.

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "runtime/emulation/exchange.hpp"
#include "runtime/emulation/port_queues.hpp"

namespace supernode::emulation {

class ExchangeGroup {
 public:
  /// @param machine outlives the group @param dies the die of each rank, all different
  ExchangeGroup(const Machine& machine, std::span<const int> dies);

  int ranks() const { return static_cast<int>(dies_.size()); }

  /// When each rank has everything in place; equal to the end of its completion_of(), apart from rounding.
  /// @param style its `ranks` are those of this group
  /// @param rows [ranks x ranks], row = sender, >= 0; @param row_bytes of each
  /// @param starts [ranks]; @param ends [ranks], may be `starts`
  /// O(ranks^2), about a nanosecond for each pair; and sorting the ranks once.
  void completions(const ExchangeStyle& style, std::span<const std::int32_t> rows, double row_bytes,
                   std::span<const ModelTime> starts, std::span<ModelTime> ends);

  /// What one rank waited for, as completion_of() tells it. O(ranks^2).
  Completion completion(const ExchangeStyle& style, std::span<const std::int32_t> rows, double row_bytes,
                        std::span<const ModelTime> starts, int rank);

 private:
  /// When a rank's rows leave, s after the first rank's start.
  struct Leaving {
    double begin, self_end, package_end, fabric_end;
    double rate;  ///< share of a port that one row takes while it is written, 1 / s
  };
  /// A rank begins to write through its port, or ends; s after the origin.
  struct Event {
    double time;
    int rank;
    bool begins;
  };
  struct Node {
    std::vector<int> ranks;                 ///< of this group, in order
    std::vector<std::pair<int, int>> runs;  ///< [first, last) of successive ranks, 16 at the most
    std::vector<Event> events;              ///< of these ranks, in order
  };

  void leave(const ExchangeStyle& style, std::span<const std::int32_t> rows, double row_bytes,
             std::span<const ModelTime> starts, double origin);
  /// All events in order, up to the last begin, and those of each node.
  void order_events();
  /// The same as edges at the ports of `node`.
  void order_edges(const Node& node);
  /// What each rank sends through the ports of a run of ranks.
  void take_rows(std::span<const std::int32_t> rows, const Node& node, std::pair<int, int> run);
  /// When the last flow through each of these ports ends; 0 without any.
  std::array<double, kPorts> last_ends(const Node& node, std::size_t lanes) const;
  /// When the rows of a run of ranks have come (s after the origin, latest peers and moving apart), and their bytes.
  void receive(std::span<const std::int32_t> rows, double row_bytes, const Node& node, std::pair<int, int> run,
               std::span<double> arrived, std::span<double> received);

  const Machine& machine_;
  std::vector<int> dies_;
  std::vector<DiePlace> places_;  ///< [ranks]
  std::vector<int> node_of_;      ///< [ranks] index into nodes_
  std::vector<Node> nodes_;
  double port_, far_rate_;                               ///< B/s into a die; from another node's die
  double package_latency_, near_latency_, far_latency_;  ///< s

  // Of the exchange under way; kept so that nothing is allocated again.
  std::vector<Leaving> leaving_;
  std::vector<Event> events_;
  std::vector<int> by_end_;
  std::vector<PortEdge> edges_;                           ///< of one node
  std::vector<int> senders_;                              ///< [edges]
  std::vector<const std::int32_t*> port_rows_;            ///< [ranks] rows to the ports of one run
  std::vector<std::array<std::int32_t, kPorts>> copies_;  ///< [ranks]
};

}  // namespace supernode::emulation
