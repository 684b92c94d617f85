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
    if (silent) throw TimeoutError("no rows from rank 4");
    starts.push_back(start);
    StepOutcome outcome;
    outcome.exchange = 900ns;
    for (const StepWork& work : works) {
      auto& tokens = static_cast<FakeState*>(work.state)->tokens;
      tokens.insert(tokens.end(), work.tokens.begin(), work.tokens.end());
      outcome.tokens.push_back(work.draw == Draw::token ? drawn(tokens) : std::nullopt);
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
  bool silent = false;  ///< other dies of the instance
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
  /// The next token of a request, or that of several.
  void iterate(std::initializer_list<RequestId> requests, RunTime stamp = {}) {
    StepOrder step;
    for (const RequestId request : requests) step.items.push_back({request, 0, 1, {}});
    order(step, stamp);
  }
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

/// A prompt that begins, computed as far as `count` goes.
StepOrder::Item begins(RequestId request, int max_output, std::vector<std::int32_t> prompt, int count = 1000) {
  return {request, 0, count, StepOrder::Item::Beginning{max_output, 4, {}, std::move(prompt)}};
}

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
  order(StepOrder{{begins(10, 5, {1, 2, 3, 4, 5}), begins(11, 1, {7})}}, RunTime(3ms));
  order(KeepAlive{});
  order(StepOrder{});  // a step in which this die has nothing
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

TEST_CASE_METHOD(Prefill, "a prompt in pieces goes on where it was; each piece is handed over when it is done") {
  order(StepOrder{{begins(10, 5, {1, 2, 3, 4, 5}, 2)}}, RunTime(1ms));
  order(StepOrder{{begins(11, 2, {7}), {10, 2, 2, {}}}}, RunTime(2ms));
  order(StepOrder{{{10, 4, 2, {}}}}, RunTime(3ms));
  order(StopOrder{});
  run_prefill_worker(context);

  const std::vector<Report> all = reports();
  REQUIRE(all.size() == 4);
  std::vector<PrefillResult> of_10;
  for (int step = 0; step < 3; ++step)
    of_10.push_back(std::get<PrefillReport>(all[static_cast<std::size_t>(step)]).results.back());
  for (std::size_t step = 0; step < 3; ++step) {
    CHECK(of_10[step].request == 10);
    CHECK(of_10[step].hit_tokens == 0);
    CHECK(of_10[step].computed_tokens == (step == 2 ? 1 : 2));
  }
  CHECK_FALSE(of_10[0].first_token);
  CHECK_FALSE(of_10[1].first_token);
  CHECK(of_10[2].first_token == 15);
  CHECK(std::get<PrefillReport>(all[1]).results[0].first_token == 7);

  std::vector<int> firsts;
  for (const auto& sent : transfer.sent)
    if (const KvPiece one = decode_kv_piece(sent.bytes).what; one.request == 10) firsts.push_back(one.first);
  CHECK(firsts == std::vector<int>{0, 2, 4});
}

TEST_CASE_METHOD(Prefill, "a prompt is dropped between two pieces, and only there") {
  order(StepOrder{{begins(10, 5, {1, 2, 3}, 2)}});
  SECTION("between") {
    order(DropOrder{{10}});
    order(StopOrder{});
    CHECK_NOTHROW(run_prefill_worker(context));
  }
  SECTION("not at all") {
    order(StopOrder{});
    CHECK_THROWS_WITH(run_prefill_worker(context),
                      "rank 1 (prefill instance 0, die 0): told to stop with prompts that have not ended");
  }
  SECTION("twice") {
    order(DropOrder{{10}});
    order(DropOrder{{10}});
    CHECK_THROWS_WITH(run_prefill_worker(context), Contains("request 10 is dropped, but not here"));
  }
  SECTION("and goes on") {
    order(DropOrder{{10}});
    order(StepOrder{{{10, 2, 1, {}}}});
    CHECK_THROWS_WITH(run_prefill_worker(context), Contains("request 10 goes on, but has not begun"));
  }
  SECTION("a piece that does not follow") {
    order(StepOrder{{{10, 1, 1, {}}}});
    CHECK_THROWS_WITH(run_prefill_worker(context), Contains("request 10 goes on from token 1 of 3, but is at 2"));
  }
}

TEST_CASE_METHOD(Prefill, "a prompt without finite logits is reported as such; its KV comes all the same") {
  order(StepOrder{{begins(10, 5, {1, 666}), begins(11, 2, {7})}});
  order(StopOrder{});
  run_prefill_worker(context);
  const auto results = std::get<PrefillReport>(reports()[0]).results;
  CHECK_FALSE(results[0].first_token);
  CHECK(results[1].first_token == 7);
  // The decode die waits for what the report says was computed, whatever becomes of the request.
  REQUIRE(transfer.sent.size() == 2);
  CHECK(decode_kv_piece(transfer.sent[0].bytes).what.request == 10);
  CHECK(decode_kv_piece(transfer.sent[1].bytes).what.request == 11);
}

TEST_CASE_METHOD(Decode, "a decode die makes room, takes KV in, iterates, and frees what has ended") {
  control.pause();  // the piece comes before its notice is read, and waits for it
  order(KvNotice{10, 1, 3, 3, {}});
  order(KvDue{10, 3, 6});
  iterate({10}, RunTime(1ms));
  iterate({10}, RunTime(2ms));
  order(DropOrder{{10}});
  iterate({}, RunTime(3ms));
  order(StopOrder{});
  piece(1, 10, 0, {1, 2, 3});
  run_decode_worker(context);

  const std::vector<Report> all = reports();
  REQUIRE(all.size() == 5);
  CHECK(std::get<KvReport>(all[0]).request == 10);
  CHECK(std::get<DecodeReport>(all[1]).tokens == std::vector<DecodeReported::Token>{{10, 12}});
  CHECK(std::get<DecodeReport>(all[1]).exchange == 900ns);
  CHECK(std::get<DecodeReport>(all[2]).tokens == std::vector<DecodeReported::Token>{{10, 24}});
  CHECK(std::get<DecodeReport>(all[3]).tokens.empty());
  CHECK(engine.largest_state == 6);
}

TEST_CASE_METHOD(Decode, "a sequence without finite logits is reported as such") {
  order(KvNotice{10, 1, 2, 9, {}});
  order(KvDue{10, 2, 4});
  control.pause();
  iterate({10});
  order(DropOrder{{10}});
  iterate({});
  order(StopOrder{});
  piece(1, 10, 0, {1, 666});
  run_decode_worker(context);
  const std::vector<Report> all = reports();
  CHECK(std::get<DecodeReport>(all[1]).tokens == std::vector<DecodeReported::Token>{{10, std::nullopt}});
  CHECK(std::get<DecodeReport>(all[2]).tokens.empty());
}

TEST_CASE_METHOD(Decode, "KV of a request that was dropped is thrown away when it comes, and said to be there") {
  order(KvNotice{10, 1, 6, 3, {}});
  order(KvDue{10, 4, 0});  // it ended after two of three pieces
  order(DropOrder{{10}});
  control.pause();
  control.pause();
  order(StopOrder{});
  transfer.pause();
  piece(1, 10, 2, {3, 4});
  piece(1, 10, 0, {1, 2});
  run_decode_worker(context);
  const std::vector<Report> all = reports();
  REQUIRE(all.size() == 2);
  CHECK(std::get<KvReport>(all[0]).request == 10);
}

TEST_CASE_METHOD(Decode, "of KV whose sender is lost nothing stays and nothing is said, whenever a part of it comes") {
  piece(1, 11, 0, {1, 2});  // without a notice
  order(KvNotice{10, 1, 6, 3, {}});
  if (GENERATE(false, true)) order(KvDue{10, 4, 0});
  control.pause();
  order(DropOrder{{10, 11}, Remainder::lost});
  control.pause();
  control.pause();
  order(StopOrder{});
  piece(1, 10, 0, {1, 2});
  transfer.pause();
  piece(1, 10, 2, {3, 4});
  run_decode_worker(context);
  CHECK(reports().size() == 1);  // the last one
}

TEST_CASE_METHOD(Decode, "KV that came before its sender was lost is a request's like any other, and is dropped") {
  order(KvNotice{10, 1, 2, 3, {}});
  order(KvDue{10, 2, 0});
  control.pause();
  order(DropOrder{{10}, Remainder::lost});
  order(StopOrder{});
  piece(1, 10, 0, {1, 2});
  run_decode_worker(context);
  REQUIRE(reports().size() == 2);
  CHECK(std::get<KvReport>(reports()[0]).request == 10);
}

TEST_CASE_METHOD(Decode, "a die whose peers are silent in a step waits for the end, whatever it is told") {
  engine.silent = true;
  iterate({});
  CHECK_THROWS_AS(run_decode_worker(context), InstanceSilent);
  order(KvNotice{10, 1, 2, 9, {}});
  iterate({10});
  order(DropOrder{{11}});
  order(StopOrder{Unfinished::lost});
  run_lost_die(context);
  REQUIRE(reports().size() == 1);
  CHECK(std::get<StoppedReport>(reports()[0]).statistics == WorkerStatistics{});
  CHECK_THROWS_WITH(run_lost_die(context), Contains("heard nothing from the coordinator"));
}

TEST_CASE_METHOD(Prefill, "a prefill die does not wait for lost ranks to take its KV") {
  order(StopOrder{Unfinished::lost});
  run_prefill_worker(context);
  CHECK(transfer.flushes == 0);
}

TEST_CASE_METHOD(Decode, "KV comes in while the die iterates without a pause") {
  for (const RequestId request : {10, 11}) {
    order(KvNotice{request, 1, 2, 9, {}});
    order(KvDue{request, 2, 4});
  }
  control.pause();
  iterate({10});
  iterate({10, 11});
  order(DropOrder{{10, 11}});
  order(StopOrder{});
  piece(1, 10, 0, {1, 2});
  transfer.pause();  // the second prompt comes during the first iteration
  piece(1, 11, 0, {3, 4});
  run_decode_worker(context);
  const std::vector<Report> all = reports();
  REQUIRE(all.size() == 5);
  CHECK(std::get<DecodeReport>(all[3]).tokens == std::vector<DecodeReported::Token>{{10, 14}, {11, 11}});
}

TEST_CASE_METHOD(Decode, "orders that are malformed, foreign or out of order are refused by rank") {
  SECTION("short") {
    std::vector<std::byte> bytes = encode(StepOrder{{{1, 0, 1, {}}}}, RunTime{});
    bytes.pop_back();
    control.arrive(0, bytes);
    CHECK_THROWS_WITH(run_decode_worker(context), Contains("rank 3 (decode instance 0, die 0): message too short"));
  }
  SECTION("for another role") {
    context.part.role = Role::prefill;
    order(KvNotice{10, 1, 2, 9, {}});
    CHECK_THROWS_WITH(run_prefill_worker(context), Contains("rank 3") && Contains("order 'reserve_kv' is not for it"));
  }
  SECTION("from another rank") {
    control.arrive(2, encode(StopOrder{}, RunTime{}));
    CHECK_THROWS_WITH(run_decode_worker(context), Contains("order from rank 2"));
  }
  SECTION("a request joins without its KV") {
    iterate({10});
    CHECK_THROWS_WITH(run_decode_worker(context), Contains("a step of request 10, whose KV is not here"));
  }
  SECTION("a request is dropped that is not here") {
    order(DropOrder{{10}});
    CHECK_THROWS_WITH(run_decode_worker(context), Contains("KV of request 10: dropped, but not here"));
  }
  SECTION("two notices") {
    order(KvNotice{10, 1, 2, 9, {}});
    order(KvNotice{10, 1, 2, 9, {}});
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
    order(KvNotice{10, 1, 2, 9, {}});
    order(KvDue{10, 2, 4});
    iterate({10});
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
  const KvNotice notice{10, 1, 6, 4, {}};
  const KvDue due{10, 6, 3};
  std::vector<std::vector<std::byte>> messages;
  const auto take = [&](int source, int first, const std::vector<std::int32_t>& tokens) {
    messages.push_back(Fixture::message_of(10, first, tokens));
    intake.take(source, decode_kv_piece(messages.back()).what);
  };
  const auto tokens_of = [](const KvIntake::Complete& one) { return static_cast<FakeState*>(one.state.get())->tokens; };

  SECTION("in order, after the notice") {
    intake.reserve(notice);
    take(1, 0, {1, 2});
    take(1, 2, {3, 4});
    intake.expect(due);
    CHECK(intake.take_complete().empty());
    take(1, 4, {5, 6});
  }
  SECTION("backwards, around the notice") {
    take(1, 4, {5, 6});
    take(1, 2, {3, 4});
    intake.reserve(notice);
    intake.expect(due);
    CHECK(intake.take_complete().empty());
    take(1, 0, {1, 2});
  }
  SECTION("from several dies that share the prompt") {
    KvNotice of_three = notice;
    of_three.prefill_ranks = 3;
    intake.reserve(of_three);
    take(3, 4, {5, 6});
    take(2, 2, {3, 4});
    CHECK_THROWS_WITH(take(4, 0, {1, 2}), Contains("a piece from rank 4, expected from rank 1 to 3"));
    intake.expect(due);
    CHECK(intake.take_complete().empty());
    take(1, 0, {1, 2});
  }
  SECTION("all before the notice") {
    take(1, 2, {3, 4, 5, 6});
    take(1, 0, {1, 2});
    intake.reserve(notice);
    CHECK(intake.take_complete().empty());
    intake.expect(due);
  }
  const std::vector<KvIntake::Complete> complete = intake.take_complete();
  REQUIRE(complete.size() == 1);
  CHECK(complete[0].notice.request == 10);
  CHECK(complete[0].first_token == 3);
  CHECK(tokens_of(complete[0]) == std::vector<std::int32_t>{1, 2, 3, 4, 5, 6});
  CHECK(intake.empty());
}

TEST_CASE("a request can be dropped before its notice has pieces, and while they are on their way") {
  FakeEngine engine;
  KvIntake intake(engine);
  intake.reserve({10, 1, 6, 4, {}});
  SECTION("before") {
    intake.drop(10);
    CHECK(intake.empty());
  }
  const auto message = Fixture::message_of(10, 0, {1, 2});
  SECTION("when nobody said how many come") {
    intake.take(1, decode_kv_piece(message).what);
    CHECK_THROWS_WITH(intake.drop(10), Contains("dropped while more of it may be on its way"));
    CHECK_THROWS_WITH(intake.expect({10, 1, 0}), Contains("1 tokens are to come, 2 have, and the prompt has 6"));
    CHECK_THROWS_WITH(intake.expect({10, 7, 0}), Contains("7 tokens are to come"));
  }
  SECTION("on their way") {
    intake.expect({10, 2, 0});
    intake.drop(10);
    CHECK_FALSE(intake.empty());
    intake.take(1, decode_kv_piece(message).what);
    const std::vector<KvIntake::Complete> complete = intake.take_complete();
    REQUIRE(complete.size() == 1);
    CHECK(complete[0].state == nullptr);
    CHECK(intake.empty());
  }
}

TEST_CASE("pieces of KV that do not fit are refused by request") {
  FakeEngine engine;
  KvIntake intake(engine);
  intake.reserve({10, 1, 6, 4, {}});
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
  order(StepOrder{{begins(10, 5, {1, 2, 3, 4, 5})}});
  order(StopOrder{});
  run_prefill_worker(context);
  REQUIRE(transfer.sent.size() == 3);
  KvIntake intake(engine);
  intake.reserve({10, 1, 5, 15, {}});
  intake.expect({10, 5, 5});
  for (std::size_t i = 3; i-- > 0;) {  // the last one first
    const KvPiece piece = decode_kv_piece(transfer.sent[i].bytes).what;
    CHECK(piece.end.size() == (i == 2 ? 3u : 0u));
    intake.take(1, piece);
  }
  const std::vector<KvIntake::Complete> complete = intake.take_complete();
  REQUIRE(complete.size() == 1);
  CHECK(static_cast<FakeState*>(complete[0].state.get())->end == std::vector<std::byte>(3, std::byte{5}));

  intake.reserve({11, 1, 2, 15, {}});
  const std::vector<std::byte> bytes(8);
  CHECK_THROWS_WITH(intake.take(1, {11, 0, 2, 4, bytes}),
                    Contains("request 11") && Contains("an end of 0 bytes, 3 here"));
}
