#pragma once
// Between the coordinator's commands and events and the bytes of its workers' ranks. Pure.

#include <compare>
#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "runtime/serving/serving_config.hpp"
#include "runtime/serving/wire/messages.hpp"

namespace supernode::serving {

/// A report that a worker owes. At most one of a kind is owed by a rank at a time; of KV, one for each request.
struct OwedReport {
  MessageKind kind{};
  RequestId request = 0;  ///< of kv_arrived
  friend auto operator<=>(const OwedReport&, const OwedReport&) = default;
};

/// "a prefill batch", "the KV of request 7", for messages.
std::string to_string(const OwedReport& report);

/// A message for a rank.
struct Outgoing {
  int rank = 0;
  MessageKind kind{};
  std::vector<std::byte> bytes;
  std::optional<OwedReport> owes;  ///< the report that the rank owes for it
};

/// A worker has stopped, and this is what it counted.
struct Stopped {
  int rank = 0;
  WorkerStatistics statistics;
};

/// Who tells the cache ranks to stop.
enum class CacheOrders {
  pool,         ///< the pool's own messages
  coordinator,  ///< the coordinator, as all others: no pool runs on them
};

class FleetWire {
 public:
  /// `config` outlives it.
  explicit FleetWire(const ServingConfig& config, CacheOrders cache = CacheOrders::pool)
      : config_(config), cache_(cache) {}

  /// The messages of a command. O(bytes of the prompts in it).
  std::vector<Outgoing> encode(const Command& command, RunTime stamp) const;
  /// An order to every rank that takes the coordinator's: KeepAlive, or StopOrder, for which each owes its last report.
  std::vector<Outgoing> encode_for_all(const Order& order, RunTime stamp) const;

  using Incoming = std::variant<PrefillReported, KvArrived, DecodeReported, Stopped>;
  /// @throws EnvironmentError naming the rank when the message is malformed, or not one of its role.
  Stamped<Incoming> decode(int rank, std::span<const std::byte> message) const;
  /// The owed report that this one is.
  static OwedReport owed_as(const Incoming& report);

 private:
  const ServingConfig& config_;
  const CacheOrders cache_;
};

}  // namespace supernode::serving
