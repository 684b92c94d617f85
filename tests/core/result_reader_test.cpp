// Results that are read back, and datasets that grow.
#include "runtime/core/result_reader.hpp"

#include <filesystem>
#include <fstream>
#include <numeric>

#include <unistd.h>

#include "runtime/core/error.hpp"
#include "runtime/core/files.hpp"
#include "runtime/core/result_file.hpp"
#include "tests/support/catch.hpp"

using namespace supernode;
using Catch::Matchers::Contains;
namespace fs = std::filesystem;

namespace {

struct Path {
  std::string name = (fs::temp_directory_path() / ("supernode-reader-test-" + std::to_string(::getpid()))).string();
  ~Path() { fs::remove(name); }
};

constexpr std::int64_t kRows = 1000;

/// Pairs of integers and some bytes, appended in parts of uneven size.
void write_some(const std::string& path) {
  ResultFile file(path, IfExists::replace);
  file.create_growing("/group/0/pairs", ValueType::int64, 2);
  file.create_growing("/group/0/bytes", ValueType::byte);
  file.create_growing("/group/1/empty", ValueType::int64, 3);
  for (std::int64_t row = 0; row < kRows; ++row) {
    file.append("/group/0/pairs", std::vector<std::int64_t>{row, -row});
    file.append("/group/0/bytes", std::vector<std::byte>(static_cast<std::size_t>(row), std::byte(row & 0xff)));
  }
  file.attribute("/", "what", "a text");
  file.attribute("/group/0", "which", "of a group");
  file.close();
}

}  // namespace

TEST_CASE("what grew by rows can be read by rows") {
  const Path path;
  write_some(path.name);
  const ResultReader reader(path.name);
  CHECK(reader.attribute("/", "what") == "a text");
  CHECK(reader.attribute("/group/0", "which") == "of a group");
  CHECK(reader.attribute("/group/0", "other") == "");
  CHECK(reader.attribute("/nowhere", "which") == "");
  CHECK(reader.names_in("/group") == std::vector<std::string>{"0", "1"});
  CHECK(reader.names_in("/other").empty());
  CHECK(reader.shape("/group/0/pairs") == std::vector<std::size_t>{1000, 2});
  CHECK(reader.shape("/group/0/bytes") == std::vector<std::size_t>{kRows * (kRows - 1) / 2});
  CHECK(reader.shape("/group/1/empty") == std::vector<std::size_t>{0, 3});
  std::vector<std::int64_t> pairs(4);
  reader.read_rows("/group/0/pairs", 998, std::span(pairs));
  CHECK(pairs == std::vector<std::int64_t>{998, -998, 999, -999});
  std::vector<std::byte> bytes(999);
  reader.read_rows("/group/0/bytes", 999 * 998 / 2, std::span(bytes));
  CHECK(bytes == std::vector<std::byte>(999, std::byte(999 & 0xff)));
  // It is mostly equal bytes, and kept compressed.
  CHECK(fs::file_size(path.name) < 200'000);
}

TEST_CASE("what cannot be read is refused with file and dataset") {
  const Path path;
  write_some(path.name);
  std::vector<std::int64_t> numbers(3);
  std::vector<std::byte> bytes(3);
  const auto refused = [&](const auto& read, const std::string& what) {
    INFO(what);
    CHECK_THROWS_WITH(read(ResultReader(path.name)), Contains(path.name) && Contains(what));
  };
  const auto reading = [](const char* dataset, std::size_t row, auto out) {
    return [=](const ResultReader& reader) { reader.read_rows(dataset, row, out); };
  };
  refused(reading("/group/0/none", 0, std::span(numbers)), "'/group/0/none' is missing");
  refused(reading("/group/0/bytes", 0, std::span(numbers)), "another type");
  refused(reading("/group/0/pairs", 0, std::span(bytes)), "another type");
  refused(reading("/group/0/pairs", 0, std::span(numbers)), "too few values");
  refused(reading("/group/0/pairs", 1000, std::span(numbers).first(2)), "too few values");
  refused([](const ResultReader& reader) { static_cast<void>(reader.shape("/group")); }, "'/group' is missing");
  CHECK_THROWS_WITH(ResultReader("/nowhere/x.h5"), Contains("/nowhere/x.h5: no such file"));
  const std::string whole = read_file(path.name);
  for (const std::size_t size : {std::size_t{0}, std::size_t{100}, whole.size() / 2, whole.size() - 1}) {
    std::ofstream(path.name, std::ios::binary) << whole.substr(0, size);
    refused([](const ResultReader&) {}, "not an HDF5 file, or truncated");
  }
}
