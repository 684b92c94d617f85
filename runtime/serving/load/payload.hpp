#pragma once
// What moving payload came to: beside the modelled time the wall time that the hosts took, and the bytes. Pure.

#include <cstdint>

namespace supernode::serving {

/// One way of moving payload. Sums over all dies.
struct Transfers {
  std::uint64_t bytes = 0;
  double wall_s = 0;      ///< that dies were at it
  double modelled_s = 0;  ///< the same on the emulated machine

  Transfers& operator+=(const Transfers& other) {
    bytes += other.bytes;
    wall_s += other.wall_s;
    modelled_s += other.modelled_s;
    return *this;
  }
  friend bool operator==(const Transfers&, const Transfers&) = default;
};

/// All payload of a run, as README.md defines bytes and times of each.
struct PayloadFigures {
  Transfers exchange, handover, pool_load, pool_store;

  PayloadFigures& operator+=(const PayloadFigures& other) {
    exchange += other.exchange;
    handover += other.handover;
    pool_load += other.pool_load;
    pool_store += other.pool_store;
    return *this;
  }
  friend bool operator==(const PayloadFigures&, const PayloadFigures&) = default;
};

}  // namespace supernode::serving
