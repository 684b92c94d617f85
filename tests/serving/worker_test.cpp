// The loops of the dies, with a transport and an engine of the test's own: no mpirun.
#include "runtime/serving/workers/worker.hpp"

#include <cmath>
#include <cstring>

#include "runtime/core/error.hpp"
#include "runtime/serving/wire/messages.hpp"
#include "runtime/serving/workers/kv_intake.hpp"
#include "tests/serving/fake_port.hpp"
#include "tests/support/catch.hpp"

using namespace supernode;
using namespace supernode::serving;
using namespace supernode::serving::test;
using namespace std::chrono_literals;
using Catch::Matchers::Contains;

namespace {

/// Keeps the tokens themselves, four bytes each.
class FakeState : public EngineState {
 public:
  int length() const override { return static_cast<int>(tokens.size()); }
  void export_tokens(int first, int count, std::span<std::byte> out) const override {
    REQUIRE(out.size() == static_cast<std::size_t>(count) * 4);
    std::memcpy(out.data(), tokens.data() + first, out.size());
  }
  void import_tokens(int first, int count, std::span<const std::byte> bytes) override {
    REQUIRE(first <= length());
    tokens.resize(static_cast<std::size_t>(std::max(length(), first + count)));
    std::memcpy(tokens.data() + first, bytes.data(), bytes.size());
  }
  void export_end(int count, std::span<std::byte> out) const override {
    REQUIRE(count == length());
    std::ranges::fill(out, std::byte(count));
  }
  void import_end(std::span<const std::byte> bytes) override { end.assign(bytes.begin(), bytes.end()); }
  std::vector<std::int32_t> tokens;
  std::vector<std::byte> end;
};

/// Draws the sum of all tokens so far, modulo 1000; nothing when one of them is 666.
class FakeEngine : public StepEngine {
 public:
  std::unique_ptr<EngineState> make_state(int max_tokens) override {
    largest_state = std::max(largest_state, max_tokens);
    return std::make_unique<FakeState>();
  }
  std::size_t state_bytes_per_token() const override { return 4; }
  std::size_t state_end_bytes() const override { return end_bytes; }
  StepOutcome step(std::span<const StepWork> works, RunTime start) override {
    starts.push_back(start);
    StepOutcome outcome;
    outcome.exchange = 900ns;
    for (const StepWork& work : works) {
      auto& tokens = static_cast<FakeState*>(work.state)->tokens;
      tokens.insert(tokens.end(), work.tokens.begin(), work.tokens.end());
      outcome.tokens.push_back(drawn(tokens));
    }
    return outcome;
  }
  std::size_t end_bytes = 0;
  static SampledToken drawn(const std::vector<std::int32_t>& tokens) {
    std::int32_t sum = 0;
    for (const std::int32_t token : tokens) {
      if (token == 666) return std::nullopt;
      sum += token;
    }
    return sum % 1000;
  }
  int largest_state = 0;
  std::vector<RunTime> starts;
};

struct Fixture {
  ServingConfig config;
  FakePort control, transfer;
  FakeEngine engine;
  WorkerContext context;

  Fixture() {
    context.config = &config;
    context.control = &control;
    context.transfer = &transfer;
    context.engine = &engine;
    context.deadline_s = 0.02;
  }
  void order(const Order& order, RunTime stamp = {}) { control.arrive(0, encode(order, stamp)); }
  void piece(int source, RequestId request, int first, const std::vector<std::int32_t>& tokens) {
    transfer.arrive(source, message_of(request, first, tokens));
  }
  static std::vector<std::byte> message_of(RequestId request, int first, const std::vector<std::int32_t>& tokens) {
    std::span<std::byte> payload;
    std::vector<std::byte> message =
        make_kv_piece(request, first, static_cast<int>(tokens.size()), 4, RunTime{}, payload);
    std::memcpy(payload.data(), tokens.data(), payload.size());
    return message;
  }
  std::vector<Report> reports() const {
    std::vector<Report> all;
    for (const auto& sent : control.sent) {
      CHECK(sent.to == 0);
      all.push_back(decode_report(sent.bytes).what);
    }
    return all;
  }
};

struct Prefill : Fixture {
  Prefill() {
    context.rank = 1;
    context.part = {Role::prefill, 0, 0};
  }
};
struct Decode : Fixture {
  Decode() {
    context.rank = 3;
    context.part = {Role::decode, 0, 0};
  }
};

}  // namespace

TEST_CASE_METHOD(Prefill, "a prefill die reports first tokens, hands over in pieces, and stops") {
  config.handover_piece.value = 8;  // two tokens
  order(PrefillOrder{{{10, 5, 4, {}, {1, 2, 3, 4, 5}}, {11, 1, 4, {}, {7}}}}, RunTime(3ms));
  order(KeepAlive{});
  order(PrefillOrder{});  // a batch in which this die has nothing
  order(StopOrder{});
  run_prefill_worker(context);

  const std::vector<Report> all = reports();
  REQUIRE(all.size() == 3);
  const auto& results = std::get<PrefillReport>(all[0]).results;
  REQUIRE(results.size() == 2);
  CHECK(results[0].first_token == 15);
  CHECK(results[0].computed_tokens == 5);
  CHECK(results[1].first_token == 7);
  // Each is charged its share of the step's 900 ns of exchange: five and one of six tokens.
  CHECK(results[0].exchange == 750ns);
  CHECK(results[1].exchange == 150ns);
  CHECK(std::get<PrefillReport>(all[1]).results.empty());
  CHECK(std::holds_alternative<StoppedReport>(all[2]));
  CHECK(engine.starts == std::vector<RunTime>{RunTime(3ms), RunTime{}});

  // Request 11 ends with its first token, so only the other's state goes on.
  REQUIRE(transfer.sent.size() == 3);
  std::vector<std::int32_t> handed;
  for (const auto& sent : transfer.sent) {
    CHECK(sent.to == 4);
    const KvPiece one = decode_kv_piece(sent.bytes).what;
    CHECK(one.request == 10);
    CHECK(one.first == static_cast<int>(handed.size()));
    handed.resize(handed.size() + static_cast<std::size_t>(one.count));
    std::memcpy(handed.data() + one.first, one.bytes.data(), one.bytes.size());
  }
  CHECK(handed == std::vector<std::int32_t>{1, 2, 3, 4, 5});
  CHECK(transfer.flushes == 1);
}

TEST_CASE_METHOD(Prefill, "a prompt without finite logits is reported as such and not handed over") {
  order(PrefillOrder{{{10, 5, 4, {}, {1, 666}}, {11, 2, 4, {}, {7}}}});
  order(StopOrder{});
  run_prefill_worker(context);
  const auto results = std::get<PrefillReport>(reports()[0]).results;
  CHECK_FALSE(results[0].first_token);
  CHECK(results[1].first_token == 7);
  REQUIRE(transfer.sent.size() == 1);
  CHECK(decode_kv_piece(transfer.sent[0].bytes).what.request == 11);
}

TEST_CASE_METHOD(Decode, "a decode die takes KV in, iterates, and forgets what has ended") {
  control.pause();  // the piece comes before its notice is read, and waits for it
  order(KvNotice{10, 1, 3, 3, 6, {}});
  order(IterateOrder{{10}}, RunTime(1ms));
  order(IterateOrder{}, RunTime(2ms));
  order(IterateOrder{}, RunTime(3ms));
  order(StopOrder{});
  piece(1, 10, 0, {1, 2, 3});
  run_decode_worker(context);

  const std::vector<Report> all = reports();
  REQUIRE(all.size() == 5);
  CHECK(std::get<KvReport>(all[0]).request == 10);
  CHECK(std::get<DecodeReport>(all[1]).tokens == std::vector<DecodeReported::Token>{{10, 12}});
  CHECK(std::get<DecodeReport>(all[1]).exchange == 900ns);
  CHECK(std::get<DecodeReport>(all[2]).tokens == std::vector<DecodeReported::Token>{{10, 24}});
  CHECK(std::get<DecodeReport>(all[3]).tokens.empty());  // three tokens were wanted, and it has them
  CHECK(engine.largest_state == 6);
}

TEST_CASE_METHOD(Decode, "a sequence without finite logits is reported once and leaves") {
  order(KvNotice{10, 1, 2, 9, 4, {}});
  control.pause();
  order(IterateOrder{{10}});
  order(IterateOrder{});
  order(StopOrder{});
  piece(1, 10, 0, {1, 666});
  run_decode_worker(context);
  const std::vector<Report> all = reports();
  CHECK(std::get<DecodeReport>(all[1]).tokens == std::vector<DecodeReported::Token>{{10, std::nullopt}});
  CHECK(std::get<DecodeReport>(all[2]).tokens.empty());
}

TEST_CASE_METHOD(Decode, "orders that are malformed, foreign or out of order are refused by rank") {
  SECTION("short") {
    std::vector<std::byte> bytes = encode(IterateOrder{{1}}, RunTime{});
    bytes.pop_back();
    control.arrive(0, bytes);
    CHECK_THROWS_WITH(run_decode_worker(context), Contains("rank 3 (decode instance 0, die 0): message too short"));
  }
  SECTION("for another role") {
    order(PrefillOrder{});
    CHECK_THROWS_WITH(run_decode_worker(context),
                      Contains("rank 3") && Contains("order 'prefill_batch' is not for it"));
  }
  SECTION("from another rank") {
    control.arrive(2, encode(StopOrder{}, RunTime{}));
    CHECK_THROWS_WITH(run_decode_worker(context), Contains("order from rank 2"));
  }
  SECTION("a request joins without its KV") {
    order(IterateOrder{{10}});
    CHECK_THROWS_WITH(run_decode_worker(context), Contains("request 10 joins without its KV"));
  }
  SECTION("two notices") {
    order(KvNotice{10, 1, 2, 9, 4, {}});
    order(KvNotice{10, 1, 2, 9, 4, {}});
    CHECK_THROWS_WITH(run_decode_worker(context),
                      Contains("rank 3 (decode instance 0, die 0): KV of request 10: a second notice"));
  }
  SECTION("the end, while KV waits for its notice") {
    control.pause();
    order(StopOrder{});
    piece(1, 10, 0, {1, 2});
    CHECK_THROWS_WITH(run_decode_worker(context),
                      "rank 3 (decode instance 0, die 0): told to stop with KV of requests that have not ended");
  }
  SECTION("the end, in the middle of a request") {
    control.pause();
    order(KvNotice{10, 1, 2, 9, 4, {}});
    order(IterateOrder{{10}});
    order(StopOrder{});
    piece(1, 10, 0, {1, 2});
    CHECK_THROWS_WITH(run_decode_worker(context), Contains("told to stop with KV of requests that have not ended"));
  }
  SECTION("something else than KV on the way of KV") {
    transfer.arrive(1, encode(StopOrder{}, RunTime{}));
    control.pause();
    CHECK_THROWS_WITH(run_decode_worker(context), Contains("rank 3") && Contains("from rank 1: message 'stop'"));
  }
}

TEST_CASE_METHOD(Prefill, "a worker gives up on a silent coordinator") {
  order(KeepAlive{});
  CHECK_THROWS_WITH(run_prefill_worker(context),
                    "rank 1 (prefill instance 0, die 0) heard nothing from the coordinator (rank 0) within 0.02 s");
}

TEST_CASE("KV comes in any order of pieces, before or after its notice, and once") {
  FakeEngine engine;
  KvIntake intake(engine);
  const KvNotice notice{10, 1, 6, 4, 0, {}};
  std::vector<std::vector<std::byte>> messages;
  const auto take = [&](int source, int first, const std::vector<std::int32_t>& tokens) {
    messages.push_back(Fixture::message_of(10, first, tokens));
    intake.take(source, decode_kv_piece(messages.back()).what);
  };
  const auto tokens_of = [](const KvIntake::Complete& one) { return static_cast<FakeState*>(one.state.get())->tokens; };

  SECTION("in order, after the notice") {
    intake.expect_kv(notice);
    take(1, 0, {1, 2});
    take(1, 2, {3, 4});
    CHECK(intake.take_complete().empty());
    take(1, 4, {5, 6});
  }
  SECTION("backwards, around the notice") {
    take(1, 4, {5, 6});
    take(1, 2, {3, 4});
    intake.expect_kv(notice);
    CHECK(intake.take_complete().empty());
    take(1, 0, {1, 2});
  }
  SECTION("all before the notice") {
    take(1, 2, {3, 4, 5, 6});
    take(1, 0, {1, 2});
    CHECK(intake.take_complete().empty());
    intake.expect_kv(notice);
  }
  const std::vector<KvIntake::Complete> complete = intake.take_complete();
  REQUIRE(complete.size() == 1);
  CHECK(complete[0].notice.request == 10);
  CHECK(tokens_of(complete[0]) == std::vector<std::int32_t>{1, 2, 3, 4, 5, 6});
  CHECK(intake.empty());
}

TEST_CASE("pieces of KV that do not fit are refused by request") {
  FakeEngine engine;
  KvIntake intake(engine);
  intake.expect_kv({10, 1, 6, 4, 0, {}});
  const auto take = [&](int source, int first, const std::vector<std::int32_t>& tokens, std::uint64_t width = 4) {
    const auto message = Fixture::message_of(10, first, tokens);
    KvPiece piece = decode_kv_piece(message).what;
    piece.bytes_per_token = width;
    intake.take(source, piece);
  };
  take(1, 0, {1, 2});
  CHECK_THROWS_WITH(take(2, 2, {3}), "KV of request 10: a piece from rank 2, expected from rank 1");
  CHECK_THROWS_WITH(take(1, 2, {3}, 2), "KV of request 10: 2 bytes a token, 4 here");
  CHECK_THROWS_WITH(take(1, 5, {3, 4}), Contains("2 tokens from 5 on, but the prompt has 6"));
  CHECK_THROWS_WITH(take(1, 1, {2, 3}), Contains("tokens from 1 on came twice"));
  take(1, 3, {4, 5});
  CHECK_THROWS_WITH(take(1, 3, {4, 5}), Contains("tokens from 3 on came twice"));
  CHECK_THROWS_WITH(take(1, 2, {3, 4}), Contains("tokens from 3 on came twice"));  // it reaches into the one that waits
}

TEST_CASE_METHOD(Prefill, "the last piece of a prompt's KV brings the end of its state") {
  config.handover_piece.value = 8;  // two tokens
  engine.end_bytes = 3;
  order(PrefillOrder{{{10, 5, 4, {}, {1, 2, 3, 4, 5}}}});
  order(StopOrder{});
  run_prefill_worker(context);
  REQUIRE(transfer.sent.size() == 3);
  KvIntake intake(engine);
  intake.expect_kv({10, 1, 5, 5, 15, {}});
  for (std::size_t i = 3; i-- > 0;) {  // the last one first
    const KvPiece piece = decode_kv_piece(transfer.sent[i].bytes).what;
    CHECK(piece.end.size() == (i == 2 ? 3u : 0u));
    intake.take(1, piece);
  }
  const std::vector<KvIntake::Complete> complete = intake.take_complete();
  REQUIRE(complete.size() == 1);
  CHECK(static_cast<FakeState*>(complete[0].state.get())->end == std::vector<std::byte>(3, std::byte{5}));

  intake.expect_kv({11, 1, 2, 5, 15, {}});
  const std::vector<std::byte> bytes(8);
  CHECK_THROWS_WITH(intake.take(1, {11, 0, 2, 4, bytes}),
                    Contains("request 11") && Contains("an end of 0 bytes, 3 here"));
}
