#pragma once
// The two clocks. Wall seconds and modelled seconds are different types, so they cannot be added or compared by
// accident.

#include <chrono>
#include <compare>

namespace supernode {

/// A span or point in seconds on one clock; `Tag` tells which.
template <class Tag>
struct Seconds {
  double value = 0;  ///< s

  constexpr double us() const { return value * 1e6; }
  constexpr double ms() const { return value * 1e3; }
  friend constexpr auto operator<=>(const Seconds&, const Seconds&) = default;
  friend constexpr Seconds operator+(Seconds a, Seconds b) { return {a.value + b.value}; }
  friend constexpr Seconds operator-(Seconds a, Seconds b) { return {a.value - b.value}; }
  friend constexpr Seconds operator*(double k, Seconds a) { return {k * a.value}; }
  friend constexpr double operator/(Seconds a, Seconds b) { return a.value / b.value; }
  constexpr Seconds& operator+=(Seconds b) {
    value += b.value;
    return *this;
  }
};

using WallTime = Seconds<struct WallTag>;    ///< real seconds, steady
using ModelTime = Seconds<struct ModelTag>;  ///< seconds on the emulated machine

/// Now, on the steady clock of this host; only differences mean anything.
inline WallTime wall_now() {
  return {std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count()};
}

}  // namespace supernode
