#pragma once
// The messages between the coordinator and its workers, as bytes. All ranks run the same program, so numbers travel in
// memory order. Pure.

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "runtime/core/error.hpp"

namespace supernode::serving {

/// Message kinds, used as MPI tags.
enum class MessageKind : int {
  // coordinator -> worker
  prefill_batch = 1,
  fetch_kv,
  iterate,
  keep_alive,  ///< "I am still here": resets the worker's deadline
  stop,
  // worker -> coordinator
  prefill_reported,
  kv_arrived,
  decode_reported,
  stopped,
};

/// Tag of a request's KV on the transfer communicator: MPI guarantees tags up to 32767, and a decode die never has that
/// many transfers from one prefill die under way.
constexpr int kv_tag(std::int64_t request) { return static_cast<int>(request % 32768); }

/// What a prefill die gets: its requests of a batch.
struct PrefillBatch {
  struct Item {
    std::int64_t request = 0;
    std::int32_t output_tokens = 0;
    std::int32_t decode_rank = 0;  ///< where the KV goes; unused for one output token
    std::vector<std::int32_t> prompt;
  };
  std::vector<Item> items;
};

/// Tells a decode die that a request's KV is under way to it.
struct KvNotice {
  std::int64_t request = 0;
  std::int32_t prefill_rank = 0, prompt_tokens = 0, output_tokens = 0, first_token = 0;
};

/// Appends values to a byte string.
class ByteWriter {
 public:
  template <class T>
  ByteWriter& put(const T& value) {
    static_assert(std::is_trivially_copyable_v<T>);
    const auto* raw = reinterpret_cast<const std::byte*>(&value);
    bytes_.insert(bytes_.end(), raw, raw + sizeof value);
    return *this;
  }
  template <class T>
  ByteWriter& put_all(std::span<const T> values) {
    static_assert(std::is_trivially_copyable_v<T>);
    put<std::uint64_t>(values.size());
    const auto raw = std::as_bytes(values);
    bytes_.insert(bytes_.end(), raw.begin(), raw.end());
    return *this;
  }
  std::vector<std::byte> take() { return std::move(bytes_); }

 private:
  std::vector<std::byte> bytes_;
};

/// Takes values off a byte string in the order they were put; a short string is a bug of ours.
class ByteReader {
 public:
  explicit ByteReader(std::span<const std::byte> bytes) : bytes_(bytes) {}
  template <class T>
  T get() {
    expect(bytes_.size() >= sizeof(T), "message too short");
    T value;
    std::memcpy(&value, bytes_.data(), sizeof value);
    bytes_ = bytes_.subspan(sizeof value);
    return value;
  }
  template <class T>
  std::vector<T> get_all() {
    const auto count = get<std::uint64_t>();
    expect(count <= bytes_.size() / sizeof(T), "message too short");
    std::vector<T> values(count);
    if (count > 0) std::memcpy(values.data(), bytes_.data(), count * sizeof(T));
    bytes_ = bytes_.subspan(count * sizeof(T));
    return values;
  }
  bool empty() const { return bytes_.empty(); }

 private:
  std::span<const std::byte> bytes_;
};

std::vector<std::byte> pack(const PrefillBatch& batch);
PrefillBatch unpack_prefill_batch(std::span<const std::byte> bytes);

/// For the messages that are one struct, or one list of structs.
template <class T>
std::vector<std::byte> pack_one(const T& value) {
  return ByteWriter().put(value).take();
}
template <class T>
T unpack_one(std::span<const std::byte> bytes) {
  return ByteReader(bytes).get<T>();
}

}  // namespace supernode::serving
