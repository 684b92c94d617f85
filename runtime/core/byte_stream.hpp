#pragma once
// Values as bytes and back: little endian, without padding, one after the other. Only numbers travel, never structs, so
// that an edit of a struct changes no format unseen. Pure.

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "runtime/core/error.hpp"

namespace supernode {

static_assert(std::endian::native == std::endian::little, "numbers travel in the memory order of these machines");

template <class T>
concept Number = std::is_arithmetic_v<T> || std::is_enum_v<T>;

/// Appends values to a byte string.
class ByteWriter {
 public:
  template <Number T>
  ByteWriter& put(T value) {
    const auto* raw = reinterpret_cast<const std::byte*>(&value);
    bytes_.insert(bytes_.end(), raw, raw + sizeof value);
    return *this;
  }
  /// Their number (64 bits), then the values.
  template <Number T>
  ByteWriter& put_all(std::span<const T> values) {
    put<std::uint64_t>(values.size());
    return put_raw(std::as_bytes(values));
  }
  ByteWriter& put_text(std::string_view text) { return put_all(std::span(text.data(), text.size())); }
  /// The bytes alone, without their number.
  ByteWriter& put_raw(std::span<const std::byte> bytes) {
    bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
    return *this;
  }
  /// Writes over what was put at `offset` before, for a length that is known at the end only.
  template <Number T>
  void overwrite(std::size_t offset, T value) {
    expect(offset + sizeof value <= bytes_.size(), "a number written over the end of a byte string");
    std::memcpy(bytes_.data() + offset, &value, sizeof value);
  }
  void reserve(std::size_t bytes) { bytes_.reserve(bytes); }
  std::size_t size() const { return bytes_.size(); }
  std::vector<std::byte> take() { return std::move(bytes_); }

 private:
  std::vector<std::byte> bytes_;
};

/// Takes values off a byte string in the order in which they were put.
/// @throws EnvironmentError "message too short" when there are not enough bytes, and "message with a value that does not
/// exist" for a bool that is neither 0 nor 1.
class ByteReader {
 public:
  explicit ByteReader(std::span<const std::byte> bytes) : bytes_(bytes) {}

  template <Number T>
  T get() {
    if constexpr (std::is_same_v<T, bool>) {
      const auto value = get<std::uint8_t>();
      if (value > 1) throw EnvironmentError("message with a value that does not exist");
      return value == 1;
    } else {
      T value;
      std::memcpy(&value, get_raw(sizeof value).data(), sizeof value);
      return value;
    }
  }
  template <Number T>
  std::vector<T> get_all() {
    const auto count = get<std::uint64_t>();
    check(count <= bytes_.size() / sizeof(T));
    std::vector<T> values(count);
    if (count > 0) std::memcpy(values.data(), get_raw(count * sizeof(T)).data(), count * sizeof(T));
    return values;
  }
  std::string get_text() {
    const std::vector<char> text = get_all<char>();
    return {text.begin(), text.end()};
  }
  std::span<const std::byte> get_raw(std::size_t count) {
    check(count <= bytes_.size());
    const auto taken = bytes_.first(count);
    bytes_ = bytes_.subspan(count);
    return taken;
  }
  /// A number of elements of at least `least_bytes` each: as many as there can be, so that a wrong one reserves
  /// nothing.
  std::size_t get_count(std::size_t least_bytes) {
    const auto count = get<std::uint64_t>();
    check(count <= bytes_.size() / least_bytes);
    return count;
  }
  /// @throws EnvironmentError when bytes are left.
  void finish() const {
    if (!bytes_.empty()) throw EnvironmentError("message too long by " + std::to_string(bytes_.size()) + " bytes");
  }
  std::size_t left() const { return bytes_.size(); }

 private:
  static void check(bool there) {
    if (!there) throw EnvironmentError("message too short");
  }
  std::span<const std::byte> bytes_;
};

}  // namespace supernode
