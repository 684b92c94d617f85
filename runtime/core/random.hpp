#pragma once
// Counter-based random numbers: the n-th draw of a stream is a function of (seed, stream, n), so results do not depend
// on which rank draws or in what order.

#include <cstdint>

namespace supernode {

/// The finaliser of SplitMix64 (Steele, Lea, Flood 2014): a bijection that scatters its input over 64 bits.
constexpr std::uint64_t mix64(std::uint64_t x) {
  x += 0x9e3779b97f4a7c15ull;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

/// A stream of draws. Satisfies UniformRandomBitGenerator.
class Random {
 public:
  using result_type = std::uint64_t;
  explicit constexpr Random(std::uint64_t seed, std::uint64_t stream = 0) : key_(mix64(seed ^ mix64(stream))) {}

  static constexpr result_type min() { return 0; }
  static constexpr result_type max() { return ~result_type{0}; }
  constexpr result_type operator()() { return mix64(key_ + 0x9e3779b97f4a7c15ull * counter_++); }
  /// Leaves out the next n numbers.
  constexpr void discard(std::uint64_t n) { counter_ += n; }
  /// A number in [0, 1), 53 bits.
  constexpr double uniform() { return static_cast<double>((*this)() >> 11) * 0x1.0p-53; }
  /// A number in [0, n), n > 0; the bias of n / 2^64 is below anything measurable here.
  constexpr std::uint64_t below(std::uint64_t n) { return (*this)() % n; }

 private:
  std::uint64_t key_;
  std::uint64_t counter_ = 0;
};

}  // namespace supernode
