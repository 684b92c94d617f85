// Values as bytes and back, and what a reader refuses.
#include "runtime/core/byte_stream.hpp"

#include <array>

#include "tests/support/catch.hpp"

using namespace supernode;
using Catch::Matchers::Contains;

namespace {

enum class Colour : std::uint16_t { red = 1, green = 258 };

std::vector<int> numbers_of(std::span<const std::byte> bytes) {
  std::vector<int> numbers;
  for (const std::byte byte : bytes) numbers.push_back(std::to_integer<int>(byte));
  return numbers;
}

}  // namespace

TEST_CASE("values stand one after the other, little endian and without padding") {
  ByteWriter writer;
  writer.put(true).put(std::uint32_t{0x04030201}).put(Colour::green).put(std::int8_t{-1});
  writer.put_text("ab").put_raw(std::array{std::byte{9}});
  CHECK(writer.size() == 19);
  const std::vector<std::byte> bytes = writer.take();
  CHECK(numbers_of(bytes) == std::vector<int>{1, 1, 2, 3, 4, 2, 1, 255, 2, 0, 0, 0, 0, 0, 0, 0, 'a', 'b', 9});
}

TEST_CASE("what was put is taken off in the same order") {
  const std::vector<double> some{1.5, -2};
  ByteWriter writer;
  writer.put(false).put(std::uint32_t{7}).put(Colour::green).put_all(std::span(some)).put_text(std::string("a\0b", 3));
  writer.put_all(std::span<const std::int32_t>()).put<std::uint64_t>(2).put(std::int64_t{-3}).put(std::int64_t{4});
  writer.overwrite(1, std::uint32_t{8});
  const std::vector<std::byte> bytes = writer.take();
  ByteReader reader(bytes);
  CHECK_FALSE(reader.get<bool>());
  CHECK(reader.get<std::uint32_t>() == 8);
  CHECK(reader.get<Colour>() == Colour::green);
  CHECK(reader.get_all<double>() == some);
  CHECK(reader.get_text() == std::string("a\0b", 3));
  CHECK(reader.get_all<std::int32_t>().empty());
  CHECK(reader.get_count(8) == 2);
  CHECK(reader.left() == 16);
  CHECK_THROWS_WITH(reader.finish(), Contains("too long by 16 bytes"));
  CHECK(reader.get<std::int64_t>() == -3);
  CHECK(numbers_of(reader.get_raw(8)) == std::vector<int>{4, 0, 0, 0, 0, 0, 0, 0});
  reader.finish();
}

TEST_CASE("a byte string that ends early, or says that more follows than does, is refused") {
  const std::array<std::byte, 3> three{};
  CHECK_THROWS_WITH(ByteReader(three).get<std::uint32_t>(), Contains("message too short"));
  CHECK_THROWS_WITH(ByteReader(three).get_raw(4), Contains("message too short"));
  // A number of elements without the elements: nothing is reserved for them.
  ByteWriter writer;
  writer.put(std::uint64_t{1} << 61).put(std::uint64_t{0});
  const std::vector<std::byte> bytes = writer.take();
  CHECK_THROWS_WITH(ByteReader(bytes).get_all<std::uint64_t>(), Contains("message too short"));
  CHECK_THROWS_WITH(ByteReader(bytes).get_text(), Contains("message too short"));
  CHECK_THROWS_WITH(ByteReader(bytes).get_count(1), Contains("message too short"));
  const std::array two{std::byte{2}};
  CHECK_THROWS_WITH(ByteReader(two).get<bool>(), Contains("does not exist"));
}
