#pragma once
// What one client of the benchmark does with the pool: its blocks, the calls that are timed, and their checks.

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "memory_pool/benchmark.hpp"
#include "memory_pool/benchmark/blocks.hpp"
#include "memory_pool/client.hpp"

namespace supernode::pool::internal {

/// Of one case. A client writes every bench.clients-th block and reads all, so a writer knows the newest version of
/// what it has written. Local: the owners must serve meanwhile.
class ClientLoad {
 public:
  /// @param number of this client, below bench.clients. @param keys distinct blocks of all clients, no fewer than these
  /// @param salt keeps the keys of one case apart from those of another
  ClientLoad(Pool& pool, const BenchCase& bench, int number, std::uint64_t keys, std::uint64_t salt);

  /// Stores the client's blocks, twice, so that nearly all of the owners' memory has been touched before the clock runs.
  void store_all();
  enum class Counting { counted, not_counted };
  /// One call of the case's operation on blocks drawn, checked as BenchCase::check says. @returns its seconds.
  double call(Counting counting);
  /// Reads all of the client's blocks and checks them.
  void check_all();
  void remove_all();

  // Of the counted calls, but `wrong` of all.
  const std::vector<double>& us_per_key() const { return us_per_key_; }  ///< [calls]
  double seconds() const { return seconds_; }                            ///< inside the pool
  long long wrong() const { return wrong_; }                             ///< as BenchResult
  long long misses() const { return misses_; }
  /// [block bytes] that nobody needs between two calls.
  std::span<std::byte> buffer() { return buffers_[0]; }

 private:
  /// The blocks of a call.
  struct Drawn {
    bool is_put = false;
    std::vector<std::uint64_t> numbers;
    std::vector<Key> keys;
    std::vector<GetItem> items;
  };
  Drawn draw();
  void check(const Drawn& drawn, const std::vector<Found>& found);
  Key key(std::uint64_t number) const;
  bool mine(std::uint64_t number) const;
  std::uint64_t mine_near(std::uint64_t number) const;

  BenchCase bench_;
  std::uint64_t clients_, number_, salt_;
  Client client_;
  Draw draw_;
  std::vector<std::uint64_t> versions_;  ///< [keys], of the blocks that this client writes
  std::vector<std::vector<std::byte>> buffers_;
  std::vector<double> us_per_key_;
  double seconds_ = 0;
  long long wrong_ = 0, misses_ = 0;
};

}  // namespace supernode::pool::internal
