// Vector code against scalar rounding, over lengths with and without full vectors.
#include "runtime/core/quantise.hpp"

#include <limits>

#include "runtime/core/random.hpp"
#include "tests/collectives/reference.hpp"
#include "tests/support/catch.hpp"

using namespace supernode;
using namespace supernode::collectives;

namespace {

std::vector<float> random_row(int hidden, int seed) {
  Random random(seed);
  std::vector<float> row(hidden);
  for (float& x : row) x = static_cast<float>((random.uniform() - 0.5) * std::pow(10.0, random.uniform() * 6 - 3));
  return row;
}

struct alignas(64) Line {
  std::byte bytes[64];
};

}  // namespace

TEST_CASE("rows arrive at every destination as the scalar rounding says, whatever the stores") {
  for (const Payload payload : {Payload::int8, Payload::bf16, Payload::f32})
    for (const int hidden : {1, 2, 7, 8, 15, 31, 32, 33, 63, 100, 127, 1024, 7168})
      for (const Stores stores : {Stores::ordinary, Stores::streaming}) {
        const std::vector<float> row = random_row(hidden, hidden);
        const std::size_t lines = hidden * element_bytes(payload) / 64 + 2;
        std::vector<Line> a(lines), b(lines);
        std::byte* const to[] = {a[0].bytes, b[0].bytes};
        const RowScale scale = row_scale(payload, row);
        write_row(payload, row, scale, to, stores);
        flush_stores();
        std::vector<float> there(hidden);
        const std::vector<float> expected = test::travelled(payload, row.data(), hidden);
        for (const std::byte* from : to) {
          read_row(payload, from, scale.scale, there);
          REQUIRE(there == expected);
        }
        if (payload == Payload::int8)  // half a step, and the rounding of the f32 products
          for (int i = 0; i < hidden; ++i) REQUIRE(std::fabs(there[i] - row[i]) <= 0.5f * scale.scale * (1 + 1e-4f));
        // Nothing is written past the row.
        CHECK(a[0].bytes[hidden * element_bytes(payload)] == std::byte{0});
      }
}

TEST_CASE("edge values") {
  const std::vector<float> zeros(40, 0.0f), tiny(40, 1e-38f);
  for (const auto& row : {zeros, tiny}) {
    const RowScale scale = row_scale(Payload::int8, row);
    CHECK(scale.scale == 0);
    std::byte buffer[64] = {};
    std::byte* const to[] = {buffer};
    write_row(Payload::int8, row, scale, to);
    std::vector<float> there(40, 1.0f);
    read_row(Payload::int8, buffer, scale.scale, there);
    CHECK(there == zeros);
  }
  // bf16: ties to even, carry into the exponent, infinity, NaN stays NaN.
  const float inf = std::numeric_limits<float>::infinity();
  const auto bits = [](std::uint32_t u) { return std::bit_cast<float>(u); };
  std::vector<float> row = {
      bits(0x3f808000), bits(0x3f818000), bits(0x3f80ffff), bits(0x7f7fffff), inf, -inf, bits(0x7f800001), -0.0f};
  row.insert(row.end(), row.begin(), row.end());
  row.insert(row.end(), row.begin(), row.begin() + 3);
  alignas(64) std::byte buffer[64];
  std::byte* const to[] = {buffer};
  write_row(Payload::bf16, row, {}, to);
  std::vector<float> there(row.size());
  read_row(Payload::bf16, buffer, 1, there);
  for (const std::size_t at : {0u, 8u, 16u}) {
    CHECK(there[at] == bits(0x3f800000));
    CHECK(there[at + 1] == bits(0x3f820000));
    CHECK(there[at + 2] == bits(0x3f810000));
    if (at == 16) break;
    CHECK(there[at + 3] == inf);
    CHECK(there[at + 4] == inf);
    CHECK(there[at + 5] == -inf);
    CHECK(std::isnan(there[at + 6]));
    CHECK(std::signbit(there[at + 7]));
  }
}

TEST_CASE("sums are in the order of the rows") {
  for (const Payload payload : {Payload::bf16, Payload::f32})
    for (const int hidden : {1, 7, 8, 9, 64, 100}) {
      std::vector<std::vector<Line>> buffers(3, std::vector<Line>(hidden * 4 / 64 + 1));
      std::vector<const std::byte*> rows;
      std::vector<float> expected(hidden);
      for (int k = 0; k < 3; ++k) {
        const std::vector<float> row = random_row(hidden, 10 + k);
        std::byte* const to[] = {buffers[k][0].bytes};
        write_row(payload, row, {}, to);
        rows.push_back(to[0]);
        const std::vector<float> there = test::travelled(payload, row.data(), hidden);
        for (int i = 0; i < hidden; ++i) expected[i] = k == 0 ? there[i] : expected[i] + there[i];
      }
      std::vector<float> out(hidden, -1.0f);
      sum_rows(payload, rows, out);
      CHECK(out == expected);
      sum_rows(payload, {}, out);
      CHECK(out == std::vector<float>(hidden, 0.0f));
    }
}
