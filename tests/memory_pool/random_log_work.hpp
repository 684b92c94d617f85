#pragma once
// Random stores and removals on a record log, over restarts: what is stored stays or is forgotten, what was removed
// never comes back, and the files keep their limit.

#include <cstdint>
#include <functional>
#include <map>

#include "runtime/core/random.hpp"
#include "tests/memory_pool/log_fixture.hpp"

namespace supernode::test {

struct RandomLogWork {
  std::uint64_t keys = 0, limit = 0;                 ///< of the files
  std::function<std::uint64_t(Random&)> draw_bytes;  ///< of a block
  std::vector<std::uint64_t> pinned{};               ///< keys that are stored before and read in every turn
  std::map<std::uint64_t, std::uint64_t> newest{};   ///< version by key; 0: removed
  std::uint64_t version = 0;

  /// On a log that was just opened on `folder`, which must forget and clean in these turns.
  void run(pool::internal::RecordLog& log, const LogFolder& folder, int turns, Random& draw) {
    for (int turn = 0; turn < turns; ++turn) {
      const std::uint64_t number = draw.below(keys);
      if (draw.uniform() < 0.2) {
        CHECK(log.remove(name_of(number)));
        newest[number] = 0;
      } else {
        CHECK(put(log, number, ++version, draw_bytes(draw)));
        newest[number] = version;
      }
      for (const std::uint64_t key : pinned) CHECK(version_of(log, key) == 1);
      const long long found = version_of(log, number);
      CHECK((newest[number] == 0 ? found == -1 : found == static_cast<long long>(newest[number])));
      CHECK(log.stats().bytes <= limit);
      CHECK(log.stats().live_bytes <= log.stats().bytes);
    }
    std::uint64_t on_disk = 0;
    for (const std::filesystem::path& file : folder.segments()) on_disk += std::filesystem::file_size(file);
    CHECK(on_disk == log.stats().bytes);
    CHECK(log.stats().cleanings > 0);
    CHECK(log.stats().forgotten > 0);
    CHECK(log.stats().corrupt + log.stats().cut + log.stats().write_errors == 0);
  }

  /// After a restart: the newest version of each key, or none.
  void check_what_came_back(pool::internal::RecordLog& log) const {
    for (const auto& [number, expected] : newest) {
      const long long found = version_of(log, number);
      CHECK((found == -1 || found == static_cast<long long>(expected)));
    }
  }
};

}  // namespace supernode::test
