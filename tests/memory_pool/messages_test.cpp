// The pool's messages as bytes: every kind comes back as it was, and what is none of ours is refused.
#include "memory_pool/format/messages.hpp"

#include <algorithm>
#include <cstring>

#include "tests/memory_pool/payload.hpp"
#include "tests/support/catch.hpp"

using namespace supernode;
using namespace supernode::pool;
using namespace supernode::pool::internal;
using Catch::Matchers::Contains;
using test::key_number;

namespace {

OwnerStats some_stats() {
  OwnerStats stats;
  stats.capacity = 11;
  stats.files.direct_refused = 12;
  return stats;
}

/// One of each kind, no field at its default.
std::vector<Request> all_requests() {
  return {Allocate{key_number(1), 2, PutMode::replace, 3},
          Publish{4, 5, Verification::checksum},
          Abandon{6},
          Remove{key_number(7), 8},
          Touch{9, {key_number(10), key_number(11)}},
          Stats{},
          Stop{},
          Promote{12, {key_number(13)}},
          CreateNamespace{14, NamespaceKind::whole, 15, std::string("a name with a zero\0", 19)},
          DeleteNamespace{16},
          Ping{},
          ModelRequest{ModelStep::make_room, key_number(17), 18},
          Discard{19}};
}

std::vector<Reply> all_replies() {
  return {Allocated{Status::quota, 1, 2, 3},
          Published{Status::not_durable, Arrival::incomplete, 4},
          Removed{Status::removed},
          StatsReply{some_stats()},
          Done{},
          Promoted{5},
          NamespaceCreated{Status::name_clash, true},
          ModelReply{Status::removed, key_number(6)}};
}

ReceivedRequest decode(std::span<const std::byte> bytes, const Request&) { return decode_request(bytes); }
ReceivedReply decode(std::span<const std::byte> bytes, const Reply&) { return decode_reply(bytes); }

/// The same bytes mean the same message: fields that a decoder forgot would be missing in them.
template <class Any>
void check_round_trips(const std::vector<Any>& messages) {
  CHECK(messages.size() == std::variant_size_v<Any>);
  for (std::size_t i = 0; i < messages.size(); ++i) {
    REQUIRE(messages[i].index() == i);
    const std::vector<std::byte> bytes = encode(77 + i, messages[i]);
    const auto back = decode(bytes, messages[i]);
    CHECK(back.id == 77 + i);
    CHECK(back.body.index() == i);
    CHECK(encode(back.id, back.body) == bytes);
  }
}

void set_word(std::vector<std::byte>& bytes, std::size_t at, std::uint32_t value) {
  std::memcpy(bytes.data() + at, &value, sizeof value);
}

}  // namespace

TEST_CASE("every request and reply comes back as it was") {
  check_round_trips(all_requests());
  check_round_trips(all_replies());
  const auto allocate = std::get<Allocate>(decode_request(encode(1, all_requests()[0])).body);
  CHECK(allocate.key == key_number(1));
  CHECK(allocate.name_space == 2);
  CHECK(allocate.mode == PutMode::replace);
  CHECK(allocate.length == 3);
  const auto touch = std::get<Touch>(decode_request(encode(1, all_requests()[4])).body);
  CHECK(touch.keys == std::vector<Key>{key_number(10), key_number(11)});
  const auto created = std::get<CreateNamespace>(decode_request(encode(1, all_requests()[8])).body);
  CHECK(created.name == std::string("a name with a zero\0", 19));
  const auto stats = std::get<StatsReply>(decode_reply(encode(1, all_replies()[3])).body).stats;
  CHECK(stats.capacity == 11);
  CHECK(stats.files.direct_refused == 12);
}

TEST_CASE("a message cut at any byte is refused") {
  for (const Request& request : all_requests()) {
    const std::vector<std::byte> bytes = encode(1, request);
    for (std::size_t size = 0; size < bytes.size(); ++size)
      CHECK_THROWS_WITH(decode_request(std::span(bytes).first(size)), Contains("too short"));
  }
  for (const Reply& reply : all_replies()) {
    const std::vector<std::byte> bytes = encode(1, reply);
    for (std::size_t size = 0; size < bytes.size(); ++size)
      CHECK_THROWS_AS(decode_reply(std::span(bytes).first(size)), MessageError);
  }
}

TEST_CASE("a body shorter or longer than its kind is refused, whatever the head says") {
  for (const Request& request : all_requests()) {
    std::vector<std::byte> longer = encode(1, request);
    longer.push_back({});
    CHECK_THROWS_WITH(decode_request(longer), Contains("too long"));
    set_word(longer, 4, static_cast<std::uint32_t>(longer.size() - sizeof(Head)));
    // A name may have one byte more; a list of keys may not.
    if (!std::holds_alternative<CreateNamespace>(request)) CHECK_THROWS_AS(decode_request(longer), MessageError);
  }
  std::vector<std::byte> shorter = encode(1, Request(Publish{4, 5, Verification::none}));
  shorter.resize(shorter.size() - 1);
  set_word(shorter, 4, static_cast<std::uint32_t>(shorter.size() - sizeof(Head)));
  CHECK_THROWS_WITH(decode_request(shorter), Contains("kind 2") && Contains("too short"));
}

TEST_CASE("lists and names beyond their limits are refused") {
  std::vector<std::byte> touch = encode(1, Request(Touch{1, std::vector<Key>(max_keys)}));
  CHECK(std::get<Touch>(decode_request(touch).body).keys.size() == max_keys);
  touch.resize(touch.size() + sizeof(Key));
  set_word(touch, 4, static_cast<std::uint32_t>(touch.size() - sizeof(Head)));
  CHECK_THROWS_WITH(decode_request(touch), Contains("too long"));
  std::vector<std::byte> create =
      encode(1, Request(CreateNamespace{1, NamespaceKind::evictable, 0, std::string(max_name_bytes, 'x')}));
  CHECK_NOTHROW(decode_request(create));
  create.push_back({});
  set_word(create, 4, static_cast<std::uint32_t>(create.size() - sizeof(Head)));
  CHECK_THROWS_WITH(decode_request(create), Contains("too long"));
}

TEST_CASE("foreign messages are refused: other kinds, and values that do not exist") {
  std::vector<std::byte> unknown = encode(1, Request(Ping{}));
  set_word(unknown, 0, 99);
  CHECK_THROWS_WITH(decode_request(unknown), Contains("kind 99") && Contains("of an unknown kind"));
  CHECK_THROWS_WITH(decode_reply(encode(1, Request(Ping{}))), Contains("of an unknown kind"));
  CHECK_THROWS_WITH(decode_request(encode(1, Reply(Done{}))), Contains("of an unknown kind"));
  const std::vector<std::byte> noise(300, std::byte{0xa5});
  CHECK_THROWS_AS(decode_request(noise), MessageError);
  CHECK_THROWS_AS(decode_reply(noise), MessageError);
  std::vector<std::byte> status = encode(1, Reply(Removed{Status::removed}));
  set_word(status, sizeof(Head), status_count);
  CHECK_THROWS_WITH(decode_reply(status), Contains("does not exist"));
  std::vector<std::byte> mode = encode(1, Request(Allocate{key_number(1), 2, PutMode::keep, 3}));
  set_word(mode, sizeof(Head) + sizeof(Key) + sizeof(NamespaceId), 2);
  CHECK_THROWS_WITH(decode_request(mode), Contains("does not exist"));
  std::vector<std::byte> flag = encode(1, Reply(NamespaceCreated{Status::stored, true}));
  flag.back() = std::byte{2};
  CHECK_THROWS_WITH(decode_reply(flag), Contains("does not exist"));
}
