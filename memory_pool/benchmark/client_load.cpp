#include "memory_pool/benchmark/client_load.hpp"

#include <algorithm>

#include "runtime/core/clock.hpp"
#include "runtime/core/random.hpp"

namespace supernode::pool::internal {

ClientLoad::ClientLoad(Pool& pool, const BenchCase& bench, int number, std::uint64_t keys, std::uint64_t salt)
    : bench_(bench),
      clients_(static_cast<std::uint64_t>(bench.clients)),
      number_(static_cast<std::uint64_t>(number)),
      salt_(salt),
      client_(pool, "bench"),
      draw_(keys, bench.zipf_alpha, bench.seed, number_),
      versions_(keys),
      buffers_(static_cast<std::size_t>(bench.batch), std::vector<std::byte>(bench.block_bytes)) {}

Key ClientLoad::key(std::uint64_t number) const { return {mix64(number), mix64(number ^ mix64(salt_))}; }

bool ClientLoad::mine(std::uint64_t number) const { return number % clients_ == number_; }

/// The block of this client that is next to `number`.
std::uint64_t ClientLoad::mine_near(std::uint64_t number) const {
  const std::uint64_t near = number - number % clients_ + number_;
  return near < versions_.size() ? near : number_;
}

void ClientLoad::store_all() {
  for (const std::uint64_t version : {0, 1})
    for (std::uint64_t number = number_; number < versions_.size(); number += clients_) {
      versions_[number] = version;
      fill_block(buffer(), number, version);
      client_.put(key(number), buffer(), PutMode::replace);
    }
}

ClientLoad::Drawn ClientLoad::draw() {
  Drawn drawn;
  drawn.is_put = bench_.operation == BenchOperation::put ||
                 (bench_.operation == BenchOperation::mixed && draw_.uniform() > bench_.get_share);
  const int count = drawn.is_put ? 1 : bench_.batch;
  for (int i = 0; i < count; ++i) {
    const std::uint64_t next = draw_.next();
    drawn.numbers.push_back(drawn.is_put ? mine_near(next) : next);
    drawn.keys.push_back(key(drawn.numbers.back()));
    drawn.items.push_back({drawn.keys.back(), buffers_[static_cast<std::size_t>(i)]});
  }
  return drawn;
}

double ClientLoad::call(Counting counting) {
  const Drawn drawn = draw();
  std::vector<Found> found;
  Status status = Status::stored;
  if (drawn.is_put) fill_block(buffer(), drawn.numbers[0], ++versions_[drawn.numbers[0]]);
  const WallTime start = wall_now();
  if (drawn.is_put)
    status = client_.put(drawn.keys[0], buffer(), PutMode::replace);
  else if (bench_.operation == BenchOperation::lookup)
    found = client_.lookup(drawn.keys);
  else
    found = client_.get_batch(drawn.items);
  const WallTime elapsed = wall_now() - start;
  if (counting == Counting::counted) {
    us_per_key_.push_back(elapsed.us() / static_cast<double>(drawn.keys.size()));
    seconds_ += elapsed.value;
    misses_ += status != Status::stored;
    misses_ += std::count_if(found.begin(), found.end(), [](const Found& block) { return !block.hit(); });
  }
  if (bench_.check) check(drawn, found);
  return elapsed.value;
}

void ClientLoad::check(const Drawn& drawn, const std::vector<Found>& found) {
  for (std::size_t i = 0; i < found.size(); ++i) {
    if (!found[i].hit()) continue;
    const std::uint64_t number = drawn.numbers[i];
    const bool right_length = found[i].length == bench_.block_bytes;
    switch (bench_.operation) {
      case BenchOperation::lookup:
        wrong_ += !right_length;
        break;
      case BenchOperation::get:
        wrong_ += !right_length || !is_block(buffers_[i], number, 1);
        break;
      case BenchOperation::mixed:
        // Others are writing theirs: only the version that their put has returned is known.
        wrong_ += mine(number) && !is_block(buffers_[i], number, versions_[number]);
        break;
      case BenchOperation::put:
        break;
    }
  }
}

void ClientLoad::check_all() {
  for (std::uint64_t number = number_; number < versions_.size(); number += clients_) {
    const Found found = client_.get(key(number), buffer());
    wrong_ += found.hit() && (found.length != bench_.block_bytes || !is_block(buffer(), number, versions_[number]));
  }
}

void ClientLoad::remove_all() {
  for (std::uint64_t number = number_; number < versions_.size(); number += clients_) client_.remove(key(number));
}

}  // namespace supernode::pool::internal
