#include "runtime/serving/workers/die_group.hpp"

#include <cstring>

#include "runtime/core/error.hpp"
#include "runtime/core/mpi/mpi_call.hpp"
#include "runtime/serving/workers/instance_silent.hpp"

namespace supernode::serving {
namespace {

template <class Meet>
void together(Meet meet) {
  try {
    meet();
  } catch (const TimeoutError& error) {
    throw InstanceSilent(error.what());
  }
}

}  // namespace

void DieGroup::take_largest(std::span<double> values) const {
  together([&] { supernode::take_largest(instance_, values, deadline_s_, "an agreement of an instance's dies"); });
}

std::vector<std::span<const std::byte>> DieGroup::gather(std::span<const std::byte> mine,
                                                         std::span<const std::size_t> sizes) {
  const auto n = static_cast<std::size_t>(dies());
  expect(sizes.size() == n && mine.size() == sizes[static_cast<std::size_t>(die())], "DieGroup::gather: sizes");
  FloatExchange& f = *floats_;
  const auto floats_of = [](std::size_t bytes) {
    return count_cast((bytes + sizeof(float) - 1) / sizeof(float), "gathered bytes");
  };
  f.send_counts.assign(n, floats_of(mine.size()));
  f.send_offsets.assign(n, 0);
  f.receive_counts.clear();
  f.receive_offsets.clear();
  std::size_t all = 0;
  for (const std::size_t size : sizes) {
    f.receive_counts.push_back(floats_of(size));
    f.receive_offsets.push_back(count_cast(all, "gathered bytes"));
    all += static_cast<std::size_t>(f.receive_counts.back());
  }
  f.sent.grow(static_cast<std::size_t>(f.send_counts.front()));
  f.received.grow(all);
  if (!mine.empty()) std::memcpy(f.sent.data(), mine.data(), mine.size());
  together([&] { exchange(instance_, floats_, deadline_s_, "what an instance's dies share"); });
  std::vector<std::span<const std::byte>> of_each;
  for (std::size_t die = 0; die < n; ++die)
    of_each.push_back(std::as_bytes(f.received.span())
                          .subspan(static_cast<std::size_t>(f.receive_offsets[die]) * sizeof(float), sizes[die]));
  return of_each;
}

}  // namespace supernode::serving
