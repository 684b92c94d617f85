#include "memory_pool/format/messages.hpp"

#include <cstring>
#include <string_view>
#include <type_traits>

#include <fmt/format.h>

namespace supernode::pool::internal {
namespace {

static_assert(sizeof(Head) == 16 && std::has_unique_object_representations_v<Head>);

// The numbers that an enumeration has.
constexpr bool exists(Status value) { return static_cast<std::size_t>(value) < status_count; }
constexpr bool exists(PutMode value) { return value <= PutMode::replace; }
constexpr bool exists(ModelStep value) { return value <= ModelStep::make_room; }
constexpr bool exists(Verification value) { return value <= Verification::checksum; }
constexpr bool exists(NamespaceKind value) { return value <= NamespaceKind::whole; }
constexpr bool exists(Arrival value) { return value <= Arrival::incomplete; }

template <class T>
concept PlainField = std::is_trivially_copyable_v<T> && std::has_unique_object_representations_v<T>;

class Writer {
 public:
  explicit Writer(std::vector<std::byte>& out) : out_(out) {}
  template <PlainField T>
  void put(const T& value) {
    append(&value, sizeof value);
  }
  void put(const std::vector<Key>& keys) {
    expect(keys.size() <= max_keys, "a pool message with too many keys");
    append(keys.data(), keys.size() * sizeof(Key));
  }
  void put(const std::string& text) {
    expect(text.size() <= max_name_bytes, "a pool message with too long a name");
    append(text.data(), text.size());
  }

 private:
  void append(const void* data, std::size_t bytes) {
    if (bytes == 0) return;
    const std::size_t start = out_.size();
    out_.resize(start + bytes);
    std::memcpy(out_.data() + start, data, bytes);
  }
  std::vector<std::byte>& out_;
};

class Reader {
 public:
  explicit Reader(std::span<const std::byte> rest) : rest_(rest) {}
  template <PlainField T>
  void get(T& value) {
    if (rest_.size() < sizeof value) throw MessageError("is cut short");
    std::memcpy(&value, rest_.data(), sizeof value);
    rest_ = rest_.subspan(sizeof value);
    if constexpr (std::is_enum_v<T>)
      if (!exists(value)) throw MessageError("holds a value that does not exist");
  }
  void get(bool& value) {
    std::uint8_t byte = 0;
    get(byte);
    if (byte > 1) throw MessageError("holds a value that does not exist");
    value = byte == 1;
  }
  void get(std::vector<Key>& keys) {
    if (rest_.size() % sizeof(Key) != 0) throw MessageError("is cut short");
    if (rest_.size() > max_keys * sizeof(Key)) throw MessageError("is too long");
    keys.resize(rest_.size() / sizeof(Key));
    if (!keys.empty()) std::memcpy(keys.data(), rest_.data(), rest_.size());
    rest_ = {};
  }
  void get(std::string& text) {
    if (rest_.size() > max_name_bytes) throw MessageError("is too long");
    text.assign(reinterpret_cast<const char*>(rest_.data()), rest_.size());
    rest_ = {};
  }
  void end() const {
    if (!rest_.empty()) throw MessageError("is too long");
  }

 private:
  std::span<const std::byte> rest_;
};

template <class Body>
std::vector<std::byte> encode_body(std::uint64_t id, const Body& body) {
  std::vector<std::byte> bytes;
  bytes.reserve(sizeof(Head) + sizeof(Body));
  bytes.resize(sizeof(Head));
  Writer writer(bytes);
  std::apply([&](const auto&... field) { (writer.put(field), ...); }, Body::fields(body));
  const Head head{Body::kind, static_cast<std::uint32_t>(bytes.size() - sizeof(Head)), id};
  std::memcpy(bytes.data(), &head, sizeof head);
  return bytes;
}

/// The alternative of `Any` that has this kind. @throws MessageError
template <class Any, std::size_t place = 0>
Any decode_body(MessageKind kind, Reader& reader) {
  if constexpr (place == std::variant_size_v<Any>) {
    throw MessageError("is of an unknown kind");
  } else {
    using Body = std::variant_alternative_t<place, Any>;
    if (Body::kind != kind) return decode_body<Any, place + 1>(kind, reader);
    Any message(std::in_place_index<place>);
    std::apply([&](auto&... field) { (reader.get(field), ...); }, Body::fields(std::get<place>(message)));
    reader.end();
    return message;
  }
}

template <class Any>
Any decode(std::span<const std::byte> bytes, Head& head, std::string_view what) {
  if (bytes.size() < sizeof head)
    throw MessageError(fmt::format("a pool {} of {} bytes is cut short", what, bytes.size()));
  std::memcpy(&head, bytes.data(), sizeof head);
  try {
    const std::span<const std::byte> body = bytes.subspan(sizeof head);
    if (body.size() < head.body_bytes) throw MessageError("is cut short");
    if (body.size() > head.body_bytes) throw MessageError("is too long");
    Reader reader(body);
    return decode_body<Any>(head.kind, reader);
  } catch (const MessageError& error) {
    throw MessageError(fmt::format("a pool {} of kind {} with {} bytes {}", what, static_cast<std::uint32_t>(head.kind),
                                   bytes.size(), error.what()));
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
