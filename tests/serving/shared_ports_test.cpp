#include "runtime/serving/coordinator/shared_ports.hpp"

#include <algorithm>

#include "runtime/core/random.hpp"
#include "runtime/emulation/machine/links.hpp"
#include "tests/support/catch.hpp"

using namespace supernode;
using namespace supernode::serving;
using emulation::Access;
using emulation::Machine;
using emulation::Memory;
using emulation::PoolNetwork;

namespace {

const Machine& shipped() {
  static const Machine machine = emulation::load_machine("cloudmatrix384");
  return machine;
}

/// Whole numbers of ns come out: a die reads and writes 1 byte a ns, an owner 4, RDMA 2, a piece costs 1000 ns.
Machine simple() {
  Machine machine = shipped();
  machine.cpus_per_node = 4;
  machine.fabric.planes = 1;
  machine.fabric.lane_gbps = 1;
  machine.fabric.read_efficiency = machine.fabric.write_efficiency = 1;
  machine.fabric.host_read_factor = machine.fabric.host_write_factor = machine.fabric.distance_factor = 1;
  machine.host_path.cpu_link_gbps = 1;
  machine.host_path.rdma_gbps = 2;
  machine.host_path.pool_request_us = 1;
  return machine;
}

RunTime at(std::int64_t ns) { return RunTime{RunSpan(ns)}; }
std::int64_t ns(RunTime time) { return time.time_since_epoch().count(); }

PoolLoadTimes load(SharedPorts& ports, int die, std::vector<OwnerShare> shares, std::int64_t now) {
  return ports.loads(die, shares, at(now));
}

}  // namespace

TEST_CASE("a load alone takes exactly what the emulation says, from one owner or several, on both networks") {
  const Machine& machine = shipped();
  const std::int64_t piece = 128 * 1152, layers = 61;
  for (const PoolNetwork network : {PoolNetwork::fabric, PoolNetwork::vpc})
    for (const std::int64_t blocks : {1, 7, 32, 1000}) {
      const std::int64_t bytes = blocks * layers * piece;
      const RunSpan expected = run_span(
          pool_read_time(machine, network, static_cast<double>(bytes), static_cast<double>(piece)).total().value);
      SharedPorts ports(machine, network, 4, 3);
      const std::vector<OwnerShare> one{{2, bytes, blocks * layers}};
      const PoolLoadTimes times = ports.loads(1, one, at(12345));
      CHECK(times.queued.count() == 0);
      CHECK(times.uncontended.count() == expected.count());
      CHECK(ns(times.ready) == 12345 + expected.count());

      std::vector<OwnerShare> spread;
      for (int owner = 0; owner < 3; ++owner) {
        const std::int64_t some = blocks / 3 + (owner < blocks % 3 ? 1 : 0);
        if (some > 0) spread.push_back({owner, some * layers * piece, some * layers});
      }
      const RunTime later = times.ready;
      const PoolLoadTimes again = ports.loads(1, spread, later);
      CHECK(again.queued.count() == 0);
      CHECK(again.ready - later == expected);
    }
}

TEST_CASE("nothing to load is ready at once") {
  SharedPorts ports(simple(), PoolNetwork::fabric, 1, 1);
  load(ports, 0, {{0, 1000, 1}}, 0);
  CHECK(ns(load(ports, 0, {}, 10).ready) == 10);
  CHECK(ns(ports.stores(0, {}, at(20))) == 20);
}

TEST_CASE("a store alone takes the pool's requests and the rate of writes to a host") {
  const Machine& machine = shipped();
  SharedPorts ports(machine, PoolNetwork::fabric, 1, 1);
  const double bytes = 5e8, pieces = 610;
  const double seconds = pieces * machine.host_path.pool_request_us * 1e-6 +
                         bytes / (link_gbps(machine, Access::write, Memory::host, 2) * 1e9);
  const std::vector<OwnerShare> share{{0, 500000000, 610}};
  CHECK(ports.stores(0, share, at(1)) - at(1) == run_span(seconds));
}

TEST_CASE("two dies that load from one owner share its port, in the order of the calls") {
  SharedPorts ports(simple(), PoolNetwork::fabric, 3, 2);
  // 8000 bytes: 8000 ns at the die's rate, 2000 ns of the owner's port, 1000 ns for the piece.
  CHECK(ns(load(ports, 0, {{0, 8000, 1}}, 0).ready) == 9000);
  const PoolLoadTimes second = load(ports, 1, {{0, 8000, 1}}, 0);
  CHECK(second.queued.count() == 2000);
  CHECK(second.uncontended.count() == 9000);
  CHECK(ns(second.ready) == 11000);
  const PoolLoadTimes third = load(ports, 2, {{0, 8000, 1}}, 500);
  CHECK(third.queued.count() == 3500);
  CHECK(ns(third.ready) == 13000);
  // The other owner's port is free.
  SharedPorts others(simple(), PoolNetwork::fabric, 2, 2);
  load(others, 0, {{0, 8000, 1}}, 0);
  CHECK(load(others, 1, {{1, 8000, 1}}, 0).queued.count() == 0);
}

TEST_CASE("loads of one die from several owners share the die's link, and later loads wait for earlier ones") {
  SharedPorts ports(simple(), PoolNetwork::fabric, 2, 3);
  CHECK(ns(load(ports, 0, {{0, 3000, 1}, {1, 5000, 2}}, 0).ready) == 3000 + 5000 + 3 * 1000);
  const PoolLoadTimes next = load(ports, 0, {{2, 1000, 1}}, 4000);
  CHECK(next.queued.count() == 7000);
  CHECK(ns(next.ready) == 11000 + 2000);
}

TEST_CASE("a die takes from the owner first whose port is free first") {
  SharedPorts ports(simple(), PoolNetwork::fabric, 2, 2);
  load(ports, 0, {{0, 8000, 1}}, 0);  // owner 0 is busy until 2000
  // 4000 bytes from owner 1 until 4000, then owner 0 is free: nobody waits.
  const PoolLoadTimes times = load(ports, 1, {{0, 4000, 1}, {1, 4000, 1}}, 0);
  CHECK(times.queued.count() == 0);
  CHECK(ns(times.ready) == 10000);
}

TEST_CASE("a transfer that a die comes to later keeps no place at its owner's port until then") {
  SharedPorts ports(simple(), PoolNetwork::fabric, 3, 2);
  // From owner 0 until 80000, then from owner 1 until 88000; both ports have given that by 20000 and 2000.
  load(ports, 0, {{0, 80000, 1}, {1, 8000, 1}}, 0);
  CHECK(load(ports, 1, {{1, 8000, 1}}, 0).queued.count() == 2000);
  CHECK(load(ports, 2, {{1, 8000, 1}}, 5000).queued.count() == 0);
}

TEST_CASE("an owner's port that is slower than a die's sets the time") {
  Machine machine = simple();
  machine.host_path.cpu_link_gbps = 0.125;  // of 4 processors: half of the die's rate
  SharedPorts ports(machine, PoolNetwork::fabric, 2, 2);
  const PoolLoadTimes first = load(ports, 0, {{0, 8000, 1}}, 0);
  CHECK(first.queued.count() == 0);
  CHECK(first.uncontended.count() == 17000);
  CHECK(load(ports, 1, {{0, 8000, 1}}, 0).queued.count() == 16000);
}

TEST_CASE("on the hosts' Ethernet an owner feeds as many dies as a node has, each with its share") {
  const Machine& machine = shipped();
  const int dies = machine.dies_per_node();
  SharedPorts ports(machine, PoolNetwork::vpc, dies + 1, 1);
  const std::int64_t bytes = 1 << 30;
  const RunSpan port =
      run_span(static_cast<double>(bytes) / (machine.host_path.vpc_gbps * machine.host_path.vpc_efficiency * 1e9));
  for (int die = 0; die <= dies; ++die) CHECK(load(ports, die, {{0, bytes, 61}}, 0).queued == die * port);
}

TEST_CASE("loads and stores go in opposite directions and do not meet") {
  SharedPorts ports(simple(), PoolNetwork::fabric, 2, 1);
  load(ports, 0, {{0, 80000, 1}}, 0);
  const std::vector<OwnerShare> share{{0, 8000, 1}};
  CHECK(ns(ports.stores(0, share, at(0))) == 9000);
  CHECK(ns(ports.stores(1, share, at(0))) == 11000);  // shares the owner's port in
  CHECK(ns(ports.stores(0, share, at(0))) == 18000);  // after the die's first
}

TEST_CASE("a hand-over waits for both RDMA ports") {
  SharedPorts ports(simple(), PoolNetwork::fabric, 4, 1);
  CHECK(ns(ports.handover(0, 2, 8000, at(100))) == 4100);
  CHECK(ns(ports.handover(0, 3, 8000, at(100))) == 8100);   // the sender is busy
  CHECK(ns(ports.handover(1, 2, 8000, at(100))) == 8100);   // the receiver is busy
  CHECK(ns(ports.handover(1, 3, 8000, at(100))) == 12100);  // both are
  CHECK(ns(ports.handover(2, 1, 8000, at(100))) == 4100);   // the other directions are free
  CHECK(ns(ports.handover(0, 2, 1, at(20000))) == 20001);   // to the nearest ns, of 0.5
  CHECK(ports.handover_totals().transfers == 6);
  CHECK(ports.handover_totals().bytes == 40001);
  CHECK(ports.handover_totals().queued.count() == 4000 + 4000 + 8000);
}

TEST_CASE("the order of calls decides who goes first at the same time, and nothing else does") {
  const auto run = [](int first, int second) {
    SharedPorts ports(simple(), PoolNetwork::fabric, 2, 1);
    load(ports, first, {{0, 8000, 1}}, 0);
    return load(ports, second, {{0, 8000, 1}}, 0).queued.count();
  };
  CHECK(run(0, 1) == 2000);
  CHECK(run(1, 0) == 2000);
}

TEST_CASE("random transfers: parts add up, nothing is negative, no port gives more than its rate, runs repeat") {
  const Machine machine = simple();
  const auto run = [&](std::vector<std::int64_t>& ends) {
    SharedPorts ports(machine, PoolNetwork::fabric, 16, 2);
    Random random(7);
    std::int64_t now = 0, bytes = 0, last = 0;
    RunSpan uncontended{}, queued{};
    for (int i = 0; i < 2000; ++i) {
      now += static_cast<std::int64_t>(random.below(300));
      std::vector<OwnerShare> shares;
      for (int owner = 0; owner < 2; ++owner)
        if (const auto some = static_cast<std::int64_t>(random.below(4000)); some > 0)
          shares.push_back({owner, some, 1});
      for (const OwnerShare& share : shares) bytes += share.bytes;
      const PoolLoadTimes times = load(ports, static_cast<int>(random.below(16)), shares, now);
      REQUIRE(times.queued.count() >= 0);
      REQUIRE(times.ready == at(now) + times.uncontended + times.queued);
      uncontended += times.uncontended;
      queued += times.queued;
      last = std::max(last, ns(times.ready));
      ends.push_back(ns(times.ready));
    }
    CHECK(ports.load_totals().bytes == bytes);
    CHECK(ports.load_totals().uncontended == uncontended);
    CHECK(ports.load_totals().queued == queued);
    CHECK(queued.count() > 0);
    CHECK(bytes <= 2 * 4 * last);  // two owners, 4 bytes a ns each
  };
  std::vector<std::int64_t> once, again;
  run(once);
  run(again);
  CHECK(once == again);
}
