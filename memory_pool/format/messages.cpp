#include "memory_pool/format/messages.hpp"

#include <cstddef>
#include <cstring>
#include <string_view>
#include <type_traits>

#include <fmt/format.h>

#include "runtime/core/byte_stream.hpp"

namespace supernode::pool::internal {
namespace {

static_assert(sizeof(Head) == 16 && sizeof(Key) == 16);

// The numbers that an enumeration has.
constexpr bool exists(Status value) { return static_cast<std::size_t>(value) < status_count; }
constexpr bool exists(PutMode value) { return value <= PutMode::replace; }
constexpr bool exists(ModelStep value) { return value <= ModelStep::make_room; }
constexpr bool exists(Verification value) { return value <= Verification::checksum; }
constexpr bool exists(NamespaceKind value) { return value <= NamespaceKind::whole; }
constexpr bool exists(Arrival value) { return value <= Arrival::incomplete; }

// What the fields of a body are as bytes. An OwnerStats is 64-bit numbers only, in the order of its members.

template <Number T>
void put(ByteWriter& to, T value) {
  to.put(value);
}
void put(ByteWriter& to, const Key& key) { to.put(key.low).put(key.high); }
void put(ByteWriter& to, const OwnerStats& stats) {
  static_assert(std::has_unique_object_representations_v<OwnerStats>);
  to.put_raw(std::as_bytes(std::span(&stats, 1)));
}
void put(ByteWriter& to, const std::vector<Key>& keys) {
  expect(keys.size() <= max_keys, "a pool message with too many keys");
  for (const Key& key : keys) put(to, key);
}
void put(ByteWriter& to, const std::string& text) {
  expect(text.size() <= max_name_bytes, "a pool message with too long a name");
  to.put_raw(std::as_bytes(std::span(text)));
}

template <Number T>
void get(ByteReader& from, T& value) {
  value = from.get<T>();
  if constexpr (std::is_enum_v<T>)
    if (!exists(value)) throw MessageError("message with a value that does not exist");
}
void get(ByteReader& from, Key& key) {
  get(from, key.low);
  get(from, key.high);
}
void get(ByteReader& from, OwnerStats& stats) { std::memcpy(&stats, from.get_raw(sizeof stats).data(), sizeof stats); }
void get(ByteReader& from, std::vector<Key>& keys) {
  if (from.left() > max_keys * sizeof(Key)) throw MessageError("message too long");
  keys.resize((from.left() + sizeof(Key) - 1) / sizeof(Key));
  for (Key& key : keys) get(from, key);
}
void get(ByteReader& from, std::string& text) {
  if (from.left() > max_name_bytes) throw MessageError("message too long");
  const std::span<const std::byte> bytes = from.get_raw(from.left());
  text.assign(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

template <class Body>
std::vector<std::byte> encode_body(std::uint64_t id, const Body& body) {
  ByteWriter message;
  message.reserve(sizeof(Head) + sizeof(Body));
  message.put(Body::kind).put(std::uint32_t{0}).put(id);
  std::apply([&](const auto&... field) { (put(message, field), ...); }, Body::fields(body));
  message.overwrite(offsetof(Head, body_bytes), static_cast<std::uint32_t>(message.size() - sizeof(Head)));
  return message.take();
}

/// The alternative of `Any` that has this kind. @throws MessageError
template <class Any, std::size_t place = 0>
Any decode_body(MessageKind kind, ByteReader& reader) {
  if constexpr (place == std::variant_size_v<Any>) {
    throw MessageError("message of an unknown kind");
  } else {
    using Body = std::variant_alternative_t<place, Any>;
    if (Body::kind != kind) return decode_body<Any, place + 1>(kind, reader);
    Any message(std::in_place_index<place>);
    std::apply([&](auto&... field) { (get(reader, field), ...); }, Body::fields(std::get<place>(message)));
    reader.finish();
    return message;
  }
}

template <class Any>
Any decode(std::span<const std::byte> bytes, Head& head, std::string_view what) {
  try {
    ByteReader reader(bytes);
    head.kind = reader.get<MessageKind>();
    head.body_bytes = reader.get<std::uint32_t>();
    head.id = reader.get<std::uint64_t>();
    if (reader.left() < head.body_bytes) throw MessageError("message too short");
    if (reader.left() > head.body_bytes) throw MessageError("message too long");
    return decode_body<Any>(head.kind, reader);
  } catch (const EnvironmentError& error) {
    throw MessageError(fmt::format("a pool {} of kind {} with {} bytes: {}", what,
                                   static_cast<std::uint32_t>(head.kind), bytes.size(), error.what()));
  }
}

}  // namespace

std::vector<std::byte> encode(std::uint64_t id, const Request& request) {
  return std::visit([id](const auto& body) { return encode_body(id, body); }, request);
}

std::vector<std::byte> encode(std::uint64_t id, const Reply& reply) {
  return std::visit([id](const auto& body) { return encode_body(id, body); }, reply);
}

ReceivedRequest decode_request(std::span<const std::byte> bytes) {
  Head head;
  Request body = decode<Request>(bytes, head, "request");
  return {head.id, std::move(body)};
}

ReceivedReply decode_reply(std::span<const std::byte> bytes) {
  Head head;
  Reply body = decode<Reply>(bytes, head, "reply");
  return {head.id, std::move(body)};
}

}  // namespace supernode::pool::internal
