#include "runtime/emulation/port_queues.hpp"

// Compiled once for each instruction set, see runtime/core/quantise.cpp.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "runtime/emulation/port_queues.cpp"
#include <hwy/foreach_target.h>  // before highway.h
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace supernode::emulation::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// With flow f of rate r_f from b_f to e_f the work that has come by t is t * C - S, where C is the sum of the rates of
// the flows under way, and S that of r_f * b_f, less r_f * e_f once f has ended. So an edge costs each port a few
// operations.
void FollowPorts(const PortEdge* edges, std::size_t count, const double* last, PortQueues* queues) {
  const hn::CappedTag<double, kPorts> d;
  const hn::Rebind<std::int32_t, decltype(d)> di;
  for (std::size_t lane = 0; lane < kPorts; lane += hn::Lanes(d)) {
    auto c = hn::Zero(d), s = c, rows = c, most = hn::Set(d, -1e300);
    const auto never = most, ends = hn::LoadU(d, last + lane);
    for (std::size_t i = 0; i < count; ++i) {
      const PortEdge& edge = edges[i];
      const auto time = hn::Set(d, edge.time);
      const auto some = hn::PromoteTo(d, hn::LoadU(di, edge.rows + lane));
      const auto rate = hn::Mul(some, hn::Set(d, edge.rate));
      if (edge.begins) {
        const auto idle = hn::Sub(time, hn::Sub(hn::Mul(time, c), s));
        most = hn::Max(most, hn::IfThenElse(hn::Le(time, ends), idle, never));
        rows = hn::Add(rows, some);
        c = hn::Add(c, rate);
        s = hn::Add(s, hn::Mul(rate, time));
      } else {
        c = hn::Sub(c, rate);
        s = hn::Sub(s, hn::Mul(rate, time));
      }
    }
    hn::StoreU(rows, d, queues->rows.data() + lane);
    hn::StoreU(most, d, queues->idle_until.data() + lane);
  }
}

}  // namespace supernode::emulation::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace supernode::emulation {
HWY_EXPORT(FollowPorts);

PortQueues follow_ports(std::span<const PortEdge> edges, const std::array<double, kPorts>& last) {
  PortQueues queues;
  HWY_DYNAMIC_DISPATCH(FollowPorts)(edges.data(), edges.size(), last.data(), &queues);
  return queues;
}

}  // namespace supernode::emulation
#endif  // HWY_ONCE
