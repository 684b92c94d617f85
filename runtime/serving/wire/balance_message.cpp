#include "runtime/serving/wire/balance_message.hpp"

namespace supernode::serving {

void put_balance(ByteWriter& to, const InstanceId& instance, const BalanceFigures& figures) {
  to.put(instance.stage).put<std::int32_t>(instance.index);
  to.put(figures.rebalancings).put(figures.experts_moved).put(figures.bytes_moved);
  to.put(figures.wall_s).put(figures.modelled_s);
  to.put<std::uint64_t>(figures.samples.size());
  for (const BalanceSample& one : figures.samples)
    to.put(one.at_s)
        .put(one.steps)
        .put(one.imbalance)
        .put(one.worst)
        .put(one.tokens)
        .put(one.step_s)
        .put(one.bytes_away)
        .put(one.switched);
}

void get_balance(ByteReader& from, std::map<InstanceId, BalanceFigures>& all) {
  InstanceId instance;
  instance.stage = from.get<emulation::Stage>();
  instance.index = from.get<std::int32_t>();
  BalanceFigures& figures = all[instance];
  figures.rebalancings = from.get<std::uint64_t>();
  figures.experts_moved = from.get<std::uint64_t>();
  figures.bytes_moved = from.get<std::uint64_t>();
  figures.wall_s = from.get<double>();
  figures.modelled_s = from.get<double>();
  figures.samples.resize(from.get_count(8 * sizeof(double)));
  for (BalanceSample& one : figures.samples) {
    one.at_s = from.get<double>();
    one.steps = from.get<std::uint64_t>();
    one.imbalance = from.get<double>();
    one.worst = from.get<double>();
    one.tokens = from.get<double>();
    one.step_s = from.get<double>();
    one.bytes_away = from.get<double>();
    one.switched = from.get<std::uint64_t>();
  }
}

}  // namespace supernode::serving
