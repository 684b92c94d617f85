// The messages of serving, as bytes and back: every kind, and every way in which one can be wrong.
#include "runtime/core/error.hpp"
#include "runtime/core/random.hpp"
#include "runtime/serving/roles.hpp"
#include "runtime/serving/wire/fleet_wire.hpp"
#include "runtime/serving/wire/messages.hpp"
#include "tests/support/catch.hpp"

using namespace supernode;
using namespace supernode::serving;
using namespace std::chrono_literals;
using Catch::Matchers::Contains;

namespace {

const RunTime some_time(123456789ns);

using Beginning = StepOrder::Item::Beginning;

/// Two prompts begin, a third goes on.
StepOrder some_step() {
  StepOrder order;
  order.items.push_back({1ull << 40, 0, 3, Beginning{7, 3, {0.5, 0.9, 11}, {1, 2, 3}, 1, {{0, 4096.0}}}});
  order.items.push_back({8, 0, 1, Beginning{1, 4, {}, {5}}});
  order.items.push_back({9, 16, 4, {}});
  return order;
}

std::vector<Order> all_orders() {
  return {some_step(), KvNotice{9, 2, 100, 20, {1, 0.5, 3}}, KvDue{9, 60, 5}, DropOrder{{4, 5, 6}}, KeepAlive{},
          StopOrder{}};
}

std::vector<Report> all_reports() {
  return {PrefillReport{{{3, SampledToken(17), 32, 8, 5us, 7us}, {4, std::nullopt, 0, 2, 0us, 1us}}, {{"absent", 2}}},
          KvReport{12}, DecodeReport{4us, {{3, 65}, {5, std::nullopt}}},
          StoppedReport{{10,
                         6,
                         4,
                         2,
                         1,
                         {{"absent", 3}, {"owner_down", 1}},
                         {{"full", 1}},
                         {20, 13},
                         {{"decode: steps", 2}},
                         {{1, 2, 3}, {4, 5, 6}, {7, 8, 9}, {10, 11, 12}},
                         {{3, {7, 0.5, 0.25}}}}}};
}

}  // namespace

TEST_CASE("every order comes back as it was sent, with its stamp") {
  for (const Order& order : all_orders()) {
    const Stamped<Order> back = decode_order(encode(order, some_time));
    CHECK(back.stamp == some_time);
    CHECK(back.what.index() == order.index());
  }
  const auto step = std::get<StepOrder>(decode_order(encode(some_step(), some_time)).what);
  REQUIRE(step.items.size() == 3);
  CHECK(step.items[0].request == 1ull << 40);
  CHECK(step.items[0].count == 3);
  REQUIRE(step.items[0].begins);
  CHECK(step.items[0].begins->max_output == 7);
  CHECK(step.items[0].begins->decode_rank == 3);
  CHECK(step.items[0].begins->sampler.temperature == 0.5);
  CHECK(step.items[0].begins->sampler.top_p == 0.9);
  CHECK(step.items[0].begins->sampler.seed == 11);
  CHECK(step.items[0].begins->prompt == std::vector<std::int32_t>{1, 2, 3});
  CHECK(step.items[0].begins->granted_tokens == 1);
  CHECK(step.items[0].begins->loads.at(0).bytes == 4096);
  CHECK(step.items[1].begins.value().prompt == std::vector<std::int32_t>{5});
  CHECK(step.items[2].request == 9);
  CHECK(step.items[2].first == 16);
  CHECK(step.items[2].count == 4);
  CHECK_FALSE(step.items[2].begins);
  const auto notice = std::get<KvNotice>(decode_order(encode(all_orders()[1], some_time)).what);
  CHECK(notice.request == 9);
  CHECK(notice.prefill_rank == 2);
  CHECK(notice.prompt_tokens == 100);
  CHECK(notice.max_output == 20);
  CHECK(notice.sampler.seed == 3);
  const auto due = std::get<KvDue>(decode_order(encode(all_orders()[2], some_time)).what);
  CHECK(due.request == 9);
  CHECK(due.tokens == 60);
  CHECK(due.first_token == 5);
  CHECK(std::get<DropOrder>(decode_order(encode(all_orders()[3], some_time)).what).requests ==
        std::vector<RequestId>{4, 5, 6});
}

TEST_CASE("every report comes back as it was sent") {
  const std::vector<Report> reports = all_reports();
  const auto back = [&](std::size_t i) { return decode_report(encode(reports[i], some_time)).what; };
  CHECK(std::get<PrefillReport>(back(0)).results == std::get<PrefillReport>(reports[0]).results);
  CHECK(std::get<PrefillReport>(back(0)).misses == std::get<PrefillReport>(reports[0]).misses);
  CHECK(std::get<KvReport>(back(1)).request == 12);
  CHECK(std::get<DecodeReport>(back(2)).exchange == 4us);
  CHECK(std::get<DecodeReport>(back(2)).tokens == std::get<DecodeReport>(reports[2]).tokens);
  CHECK(std::get<StoppedReport>(back(3)).statistics == std::get<StoppedReport>(reports[3]).statistics);
}

TEST_CASE("the envelope is 16 bytes: kind, version, length of the body, stamp") {
  const std::vector<std::byte> message = encode(KvReport{12}, RunTime(258ns));
  REQUIRE(message.size() == 24);
  CHECK(message[0] == std::byte{8});  // kv_arrived
  CHECK(message[2] == std::byte{2});  // version
  CHECK(message[4] == std::byte{8});  // bytes of the body
  CHECK(message[8] == std::byte{2});  // stamp: 258 = 0x102
  CHECK(message[9] == std::byte{1});
  CHECK(message[16] == std::byte{12});
}

TEST_CASE("a message cut at any byte, or with a byte too many, is refused") {
  const auto try_all = [](const std::vector<std::byte>& whole, auto&& decode) {
    for (std::size_t size = 0; size < whole.size(); ++size) {
      INFO(size << " of " << whole.size());
      CHECK_THROWS_WITH(decode(std::span(whole).first(size)), Contains("too short"));
    }
    std::vector<std::byte> longer = whole;
    longer.push_back({});
    CHECK_THROWS_WITH(decode(longer), Contains("too long by 1 bytes"));
  };
  for (const Order& order : all_orders())
    try_all(encode(order, some_time), [](std::span<const std::byte> bytes) { return decode_order(bytes); });
  for (const Report& report : all_reports())
    try_all(encode(report, some_time), [](std::span<const std::byte> bytes) { return decode_report(bytes); });
}

TEST_CASE("a body that is shorter or longer than its kind needs is refused") {
  // The length in the envelope is right, the body is not: as from a program with another struct.
  std::vector<std::byte> message = encode(KvReport{12}, some_time);
  message.resize(message.size() - 1);
  message[4] = std::byte{7};
  CHECK_THROWS_WITH(decode_report(message), Contains("too short"));
  message = encode(KvReport{12}, some_time);
  message.resize(message.size() + 2);
  message[4] = std::byte{10};
  CHECK_THROWS_WITH(decode_report(message), Contains("too long by 2"));
}

TEST_CASE("foreign messages are refused: another version, an unknown kind, a report for an order") {
  std::vector<std::byte> message = encode(StopOrder{}, some_time);
  message[2] = std::byte{9};
  CHECK_THROWS_WITH(decode_order(message), Contains("version 9") && Contains("the same program"));
  message = encode(StopOrder{}, some_time);
  message[0] = std::byte{99};
  CHECK_THROWS_WITH(decode_order(message), Contains("'unknown' is no order"));
  CHECK_THROWS_WITH(decode_order(encode(KvReport{1}, some_time)), Contains("'kv_arrived' is no order"));
  CHECK_THROWS_WITH(decode_report(encode(StopOrder{}, some_time)), Contains("'stop' is no report"));
  CHECK_THROWS_WITH(decode_kv_piece(encode(StopOrder{}, some_time)), Contains("'stop' is no piece of KV"));
}

TEST_CASE("orders with lengths that no request has are refused") {
  const auto refused = [](const Order& order, const char* why) {
    CHECK_THROWS_WITH(decode_order(encode(order, some_time)), why);
  };
  refused(StepOrder{{{8, 0, 1, Beginning{1, 4, {}, {}}}}}, "request 8 of 0 prompt and 1 output tokens");
  refused(StepOrder{{{8, 0, 1, Beginning{0, 4, {}, {5}}}}}, "request 8 of 1 prompt and 0 output tokens");
  refused(StepOrder{{{8, 0, 1, Beginning{1, 4, {}, {5}, 1}}}}, "request 8 is granted 1 of 1 prompt tokens");
  refused(StepOrder{{{8, -1, 1, {}}}}, "a step of 1 tokens behind -1 of request 8");
  refused(StepOrder{{{8, 3, 0, {}}}}, "a step of 0 tokens behind 3 of request 8");
  refused(KvNotice{9, 2, -1, 20, {}}, "request 9 of -1 prompt and 20 output tokens");
  refused(KvNotice{9, 2, 100, -20, {}}, "request 9 of 100 prompt and -20 output tokens");
  refused(KvDue{9, 0, 4}, "0 tokens of KV of request 9");
}

TEST_CASE("random bytes are refused or read, never more than that") {
  Random random(4, 0);
  const std::vector<Order> orders = all_orders();
  for (int round = 0; round < 20000; ++round) {
    std::vector<std::byte> message = encode(orders[random.below(orders.size())], some_time);
    for (int flips = 0; flips < 3; ++flips)
      message[random.below(message.size())] = static_cast<std::byte>(random.below(256));
    try {
      decode_order(message);
    } catch (const EnvironmentError&) {
    }
  }
}

TEST_CASE("a piece of KV has a head of its own, which must fit its bytes") {
  std::span<std::byte> payload;
  std::vector<std::byte> message = make_kv_piece(77, 10, 3, 4, some_time, payload);
  REQUIRE(payload.size() == 12);
  for (std::size_t i = 0; i < payload.size(); ++i) payload[i] = static_cast<std::byte>(i);
  const Stamped<KvPiece> piece = decode_kv_piece(message);
  CHECK(piece.stamp == some_time);
  CHECK(piece.what.request == 77);
  CHECK(piece.what.first == 10);
  CHECK(piece.what.count == 3);
  CHECK(piece.what.bytes_per_token == 4);
  CHECK(std::equal(piece.what.bytes.begin(), piece.what.bytes.end(), payload.begin(), payload.end()));
  const std::span<const std::byte> all(message);
  for (std::size_t size = 0; size < message.size(); ++size)
    CHECK_THROWS_AS(decode_kv_piece(all.first(size)), EnvironmentError);
  message[envelope_bytes + 12] = std::byte{2};  // the count
  CHECK_THROWS_WITH(decode_kv_piece(message), Contains("12 bytes for 2 tokens from 10 on of 4 bytes each"));
}

TEST_CASE("the last piece of KV carries the end of the state behind its tokens") {
  std::span<std::byte> payload;
  std::vector<std::byte> message = make_kv_piece(77, 10, 3, 4, some_time, payload, 5);
  REQUIRE(payload.size() == 17);
  for (std::size_t i = 0; i < payload.size(); ++i) payload[i] = static_cast<std::byte>(i);
  const Stamped<KvPiece> piece = decode_kv_piece(message);
  CHECK(std::ranges::equal(piece.what.bytes, payload.first(12)));
  CHECK(std::ranges::equal(piece.what.end, payload.last(5)));
  const std::span<const std::byte> all(message);
  for (std::size_t size = 0; size < message.size(); ++size)
    CHECK_THROWS_AS(decode_kv_piece(all.first(size)), EnvironmentError);
  message[envelope_bytes + 24] = std::byte{18};  // an end longer than all that is there
  CHECK_THROWS_AS(decode_kv_piece(message), EnvironmentError);
}

TEST_CASE("commands go to the ranks of their dies, and say what is owed for them") {
  ServingConfig config;  // 0 | 1 | 2 | 3 4 5 6 | 7
  const FleetWire wire(config);
  Request request;
  request.id = 5;
  request.max_output = 4;
  request.prompt = {1, 2};
  request.sampler.seed = 8;
  const auto shared = std::make_shared<const Request>(request);

  constexpr InstanceId second_prefill{emulation::Stage::prefill, 1}, decoding{emulation::Stage::decode, 0};
  const auto prefill =
      wire.encode(StartStep{second_prefill, {{{5, 0, 2, Work::Beginning{shared, {0, 3}}}}}}, some_time);
  REQUIRE(prefill.size() == 1);
  CHECK(prefill[0].rank == 2);
  CHECK(prefill[0].owes == OwedReport{MessageKind::prefill_reported});
  const auto order = std::get<StepOrder>(decode_order(prefill[0].bytes).what);
  CHECK(order.items.at(0).begins.value().decode_rank == 6);
  CHECK(order.items.at(0).begins.value().sampler.seed == 8);

  const auto reserved = wire.encode(ReserveKv{shared, {1, 0}, {0, 3}}, some_time);
  REQUIRE(reserved.size() == 1);
  CHECK(reserved[0].rank == 6);
  CHECK_FALSE(reserved[0].owes);
  const auto notice = std::get<KvNotice>(decode_order(reserved[0].bytes).what);
  CHECK(notice.prefill_rank == 2);
  CHECK(notice.prompt_tokens == 2);

  const auto expected = wire.encode(ExpectKv{shared, {0, 3}, 2, 65}, some_time);
  REQUIRE(expected.size() == 1);
  CHECK(expected[0].rank == 6);
  CHECK(expected[0].owes == OwedReport{MessageKind::kv_arrived, 5});
  CHECK(std::get<KvDue>(decode_order(expected[0].bytes).what).first_token == 65);

  // Nobody sends KV that is in place, so no report says that it has come.
  request.placed_tokens = 7;
  const auto placed = std::make_shared<const Request>(request);
  const auto in_place = wire.encode(ReserveKv{placed, {}, {0, 0}}, some_time);
  CHECK(std::get<KvNotice>(decode_order(in_place.at(0).bytes).what).prefill_rank == -1);
  CHECK_FALSE(wire.encode(ExpectKv{placed, {0, 0}, 7, 0}, some_time).at(0).owes);

  const auto iteration = wire.encode(StartStep{decoding, {{{5}}, {}, {}, {{9, 12}}}}, some_time);
  REQUIRE(iteration.size() == 4);
  CHECK(iteration[3].rank == 6);
  CHECK(iteration[3].owes == OwedReport{MessageKind::decode_reported});
  CHECK(std::get<StepOrder>(decode_order(iteration[3].bytes).what).items.at(0).request == 9);
  CHECK(std::get<StepOrder>(decode_order(iteration[3].bytes).what).items.at(0).first == 12);

  // Only dies that hold one of the requests are told.
  const auto dropped = wire.encode(DropState{decoding, {{}, {5, 6}, {}, {}}}, some_time);
  REQUIRE(dropped.size() == 1);
  CHECK(dropped[0].rank == 4);
  CHECK_FALSE(dropped[0].owes);
  CHECK(std::get<DropOrder>(decode_order(dropped[0].bytes).what).requests == std::vector<RequestId>{5, 6});
  CHECK(wire.encode_for_all(StopOrder{}, some_time).size() == 6);
  CHECK(wire.encode_for_all(StopOrder{}, some_time)[5].owes == OwedReport{MessageKind::stopped});
  CHECK_FALSE(wire.encode_for_all(KeepAlive{}, some_time)[0].owes);
}

TEST_CASE("reports become events of their die; those of another role are refused") {
  ServingConfig config;
  const FleetWire wire(config);
  const auto reports = all_reports();
  const auto decode = [&](int rank, std::size_t report) {
    return wire.decode(rank, encode(reports[report], some_time)).what;
  };
  CHECK(std::get<PrefillReported>(decode(2, 0)).die == DieId{1, 0});
  CHECK(std::get<KvArrived>(decode(4, 1)).die == DieId{0, 1});
  CHECK(std::get<DecodeReported>(decode(6, 2)).die == DieId{0, 3});
  CHECK(std::get<Stopped>(decode(1, 3)).rank == 1);
  CHECK(FleetWire::owed_as(decode(2, 0)) == OwedReport{MessageKind::prefill_reported});
  CHECK(FleetWire::owed_as(decode(4, 1)) == OwedReport{MessageKind::kv_arrived, 12});
  CHECK(FleetWire::owed_as(decode(6, 2)) == OwedReport{MessageKind::decode_reported});
  CHECK(FleetWire::owed_as(decode(1, 3)) == OwedReport{MessageKind::stopped});
  CHECK_THROWS_WITH(decode(3, 0), Contains("from rank 3: message 'prefill_reported' of a decode rank"));
  CHECK_THROWS_WITH(decode(1, 2), Contains("'decode_reported' of a prefill rank"));
  CHECK_THROWS_WITH(decode(7, 3), Contains("'stopped' of a cache rank"));
  CHECK_THROWS_WITH(decode(8, 3), Contains("no such rank"));
  CHECK_THROWS_WITH(wire.decode(2, {}), Contains("from rank 2: message too short"));
}
