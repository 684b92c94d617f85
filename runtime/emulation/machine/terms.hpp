#pragma once
// A duration with the parts that make it up. Cost functions return Terms: the sum is the time.

#include <array>
#include <cstddef>
#include <string_view>

#include "runtime/core/clock.hpp"
#include "runtime/core/error.hpp"

namespace supernode::emulation {

/// A part of a duration. The name is a literal.
struct Term {
  const char* name = "";
  ModelTime time;
};

/// Named parts of a duration, in order; their sum is the whole. A value of fixed size: nothing is allocated. A name may
/// come more than once.
class Terms {
 public:
  static constexpr std::size_t kCapacity = 32;

  /// @param name must outlive the terms; literals do. More than kCapacity terms are our bug.
  void add(const char* name, ModelTime time) {
    expect(size_ < kCapacity, "a duration has more terms than were foreseen");
    terms_[size_++] = {name, time};
  }
  void add(const Terms& others) {
    for (const Term& term : others) add(term.name, term.time);
  }
  /// Adds to the first term of that name, or a new one behind all.
  void lengthen(const char* name, ModelTime time) {
    for (std::size_t i = 0; i < size_; ++i)
      if (std::string_view(terms_[i].name) == name) {
        terms_[i].time += time;
        return;
      }
    add(name, time);
  }

  ModelTime total() const {
    ModelTime sum;
    for (const Term& term : *this) sum += term.time;
    return sum;
  }
  /// Sum of the terms of that name; zero when there is none.
  ModelTime of(std::string_view name) const {
    ModelTime sum;
    for (const Term& term : *this)
      if (name == term.name) sum += term.time;
    return sum;
  }
  /// The first of the longest terms; without a name when all are zero.
  Term longest() const {
    Term most;
    for (const Term& term : *this)
      if (most.time < term.time) most = term;
    return most;
  }

  const Term* begin() const { return terms_.data(); }
  const Term* end() const { return terms_.data() + size_; }

 private:
  std::array<Term, kCapacity> terms_;
  std::size_t size_ = 0;
};

}  // namespace supernode::emulation
