#include "runtime/serving/load/progress.hpp"

#include <utility>

#include <fmt/format.h>

namespace supernode::serving {

std::string Progress::line(WallTime now, const ProgressCounts& counts) {
  const double since = (now - std::exchange(last_, now)).value;
  const std::uint64_t tokens = counts.tokens - std::exchange(last_tokens_, counts.tokens);
  const std::string of = total_ > 0 ? fmt::format(" of {}", total_) : "";
  std::string text = fmt::format("served {}{} requests, {} running, {} queued, {:.0f} tok/s", counts.done, of,
                                 counts.running, counts.queued, since > 0 ? static_cast<double>(tokens) / since : 0.0);
  if (total_ > 0 && counts.done > 0 && counts.done <= total_)
    text += fmt::format(", {:.0f} s left", (now - start_).value * static_cast<double>(total_ - counts.done) /
                                               static_cast<double>(counts.done));
  return text;
}

}  // namespace supernode::serving
