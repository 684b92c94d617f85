#pragma once
// The runs of one job of `serve`: the workload as configured, with each of some parts switched off, and at multiples of
// its rate; each as often as asked.

#include <string>
#include <vector>

#include "runtime/core/options.hpp"
#include "runtime/serving/server.hpp"

namespace supernode::launch {

/// One way in which the workload is served. Equal on all ranks.
struct Variation {
  enum class Kind {
    as_configured,
    without,   ///< a part switched off
    at_factor  ///< of its rate
  };
  Kind kind = Kind::as_configured;
  std::string name = "";  ///< of the part; the factor as text
  double load_factor = 1;
  serving::ServeOptions options;

  /// Where its raw rows go, in front of their names: "", "ablation/pool/", "peaks/0.5/".
  std::string folder() const;
};

class VariationOptions {
 public:
  void describe(OptionTable& table);

  int repeats() const { return repeats_; }
  bool scales_load() const { return !load_factors_.empty(); }

  /// The runs of a job, first the one as configured, which is that of factor 1, too.
  /// @param at_once the load has no times to scale
  /// @throws UsageError naming the option: an unknown part, one that is off already, a load without times, a pool whose
  /// files would outlive a run.
  std::vector<Variation> make(const serving::ServeOptions& configured, bool at_once) const;

 private:
  int repeats_ = 1;
  std::vector<std::string> ablate_;
  std::vector<double> load_factors_;
};

}  // namespace supernode::launch
