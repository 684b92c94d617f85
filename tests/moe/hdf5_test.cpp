// The HDF5 form of a checkpoint: what import writes is read back, in every type; and what may be wrong with a file.
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>

#include <fmt/format.h>
#include <unistd.h>

#include "moe/checkpoint.hpp"
#include "moe/checkpoint/hdf5_checkpoint.hpp"
#include "moe/hdf5_import.hpp"
#include "runtime/core/array_file.hpp"
#include "runtime/core/error.hpp"
#include "runtime/core/files.hpp"
#include "tests/support/catch.hpp"

namespace supernode::moe {
namespace {
namespace fs = std::filesystem;

/// A folder that goes away with the test.
struct Folder {
  Folder() : path(fs::temp_directory_path() / fmt::format("supernode-hdf5-{}", ::getpid())) {
    fs::remove_all(path);
    fs::create_directories(path);
  }
  ~Folder() { fs::remove_all(path); }
  std::string operator/(const std::string& name) const { return (path / name).string(); }
  fs::path path;
};

const std::string tiny = test::source_path("tests/moe/golden/tiny");
const std::string expert = "model.layers.1.mlp.experts.2.gate_proj.weight";

/// A file that is a checkpoint except for what `add` puts in or leaves out.
std::string file_with(const Folder& folder, const std::function<void(ArrayFileWriter&)>& add,
                      const std::string& version = Hdf5Checkpoint::version) {
  static int number = 0;
  const std::string path = folder / fmt::format("case{}.h5", number++);
  ArrayFileWriter file(path);
  file.attribute("format", Hdf5Checkpoint::format_name);
  file.attribute("version", version);
  file.attribute("config", read_file(tiny + "/config.json"));
  add(file);
  file.close();
  return path;
}

}  // namespace

TEST_CASE("array file: rows come back, in every type") {
  const Folder folder;
  const std::vector<float> values{1, 2, 3, 4, 5, 6};
  const std::vector<std::uint16_t> halves{0x3f80, 0x4000};
  const std::vector<std::int8_t> integers{1, -2, 127};
  {
    ArrayFileWriter file(folder / "a.h5");
    file.create("f*", {ElementType::f32, {3, 2}}, ArrayLayout::by_row);
    file.create("h", {ElementType::bf16, {2}});
    file.create("i", {ElementType::int8, {3}});
    file.create("none", {ElementType::f32, {0, 2}}, ArrayLayout::by_row);
    file.attribute("text", std::string(100000, 'x'));
    file.write_rows("f*", 1, std::as_bytes(std::span(values).subspan(2)));
    file.write_rows("f*", 0, std::as_bytes(std::span(values).first(2)));
    file.write_rows("h", 0, std::as_bytes(std::span(halves)));
    file.write_rows("i", 0, std::as_bytes(std::span(integers)));
    file.close();
  }
  CHECK_THROWS_WITH(ArrayFileWriter(folder / "a.h5"), Catch::Contains("it exists"));
  const ArrayFile file(folder / "a.h5");
  CHECK(file.arrays().size() == 4);
  CHECK(file.attribute("text").size() == 100000);
  CHECK(file.attribute("other").empty());
  CHECK(file.find("f*")->shape == std::vector<std::int64_t>{3, 2});
  CHECK(file.find("none")->bytes() == 0);
  CHECK(file.find("h")->type == ElementType::bf16);
  std::vector<float> row(2);
  file.read_rows("f*", 2, std::as_writable_bytes(std::span(row)));
  CHECK(row == std::vector<float>{5, 6});
  std::vector<std::uint16_t> half(1);
  file.read_rows("h", 1, std::as_writable_bytes(std::span(half)));
  CHECK(half[0] == 0x4000);
  std::vector<std::int8_t> back(3);
  file.read_rows("i", 0, std::as_writable_bytes(std::span(back)));
  CHECK(back == integers);
  { const ArrayFileWriter unfinished(folder / "b.h5"); }
  CHECK_FALSE(fs::exists(folder / "b.h5"));
}

TEST_CASE("tensor names become arrays") {
  CHECK(place_of_tensor(expert).array == "model.layers.1.mlp.experts.*.gate_proj.weight");
  CHECK(place_of_tensor(expert).row == 2);
  for (const char* name : {"model.norm.weight", "a.experts.x.b", "a.experts.", "a.experts.-1.b", "a.experts.7"})
    CHECK(place_of_tensor(name).array == name);
}

TEST_CASE("import: every tensor is read back as exactly as its type allows") {
  const Folder folder;
  for (const ComputeType type : {ComputeType::f32, ComputeType::bf16, ComputeType::int8}) {
    Checkpoint source(tiny);
    const std::string path = folder / fmt::format("m{}.h5", static_cast<int>(type));
    const ImportSummary summary = import_checkpoint(source, path, type);
    CHECK(summary.tensors == source.tensors().size());
    CHECK(summary.int8_error <= summary.int8_error_unsearched);
    CHECK((summary.int8_error > 0) == (type == ComputeType::int8));
    Checkpoint copy(path);
    Checkpoint from_source(std::make_shared<DiskFiles>(path));
    CHECK(from_source.config_text() == source.config_text());
    CHECK(copy.config_text() == source.config_text());
    CHECK(copy.config().n_routed_experts == source.config().n_routed_experts);
    CHECK(copy.tensors().size() == source.tensors().size());
    CHECK_FALSE(copy.has("model.layers.1.mlp.experts.999.gate_proj.weight"));
    const double tolerance = type == ComputeType::f32    ? 0
                             : type == ComputeType::bf16 ? 1.0 / 256
                                                         : 0.165;  // a clipped channel
    for (const TensorInfo& tensor : source.tensors()) {
      INFO(tensor.name);
      CHECK(copy.has(tensor.name));
      const std::vector<float> wanted = source.read(tensor.name, std::span(tensor.shape));
      const std::vector<float> found = copy.read(tensor.name, std::span(tensor.shape));
      double largest = 0, error = 0;
      for (std::size_t i = 0; i < wanted.size(); ++i) {
        largest = std::max(largest, static_cast<double>(std::abs(wanted[i])));
        error = std::max(error, static_cast<double>(std::abs(wanted[i] - found[i])));
      }
      CHECK(error <= tolerance * largest);
      CHECK(from_source.read(tensor.name, std::span(tensor.shape)) == found);
      if (tensor.shape.size() != 2 || tensor.name.ends_with(".gate.weight")) CHECK(found == wanted);
    }
    CHECK_THROWS_WITH(import_checkpoint(source, path, type), Catch::Contains("it exists"));
  }
}

TEST_CASE("HDF5 checkpoints: what may be wrong with one gets one line") {
  const Folder folder;
  const auto refused = [](const std::string& path, const std::string& message) {
    INFO(message);
    CHECK_THROWS_AS(Checkpoint(path), UsageError);
    CHECK_THROWS_WITH(Checkpoint(path), Catch::StartsWith(path) && Catch::Contains(message));
  };
  std::ofstream(folder / "text.h5") << "not HDF5 at all";
  refused(folder / "text.h5", "not an HDF5 file, or truncated");
  std::ofstream(folder / "empty.h5");
  refused(folder / "empty.h5", "not an HDF5 file, or truncated");

  Checkpoint source(tiny);
  import_checkpoint(source, folder / "whole.h5", ComputeType::int8);
  const std::string whole = read_file(folder / "whole.h5");
  for (const std::size_t size : {whole.size() - 1, whole.size() / 2, std::size_t{100}}) {
    std::ofstream(folder / "cut.h5", std::ios::binary) << whole.substr(0, size);
    refused(folder / "cut.h5", "truncated");
  }
  {
    ArrayFileWriter foreign(folder / "foreign.h5");
    foreign.create("x", {ElementType::f32, {1}});
    foreign.close();
  }
  refused(folder / "foreign.h5", "not a checkpoint of this program");
  refused(file_with(
              folder, [](ArrayFileWriter&) {}, "99"),
          "checkpoint version '99'; supported: 1");

  const auto misread = [&](const std::string& path, const std::string& message) {
    INFO(message);
    Checkpoint checkpoint(path);
    CHECK_THROWS_AS(checkpoint.read(expert, {2, 2}), UsageError);
    CHECK_THROWS_WITH(checkpoint.read(expert, {2, 2}), Catch::StartsWith(path) && Catch::Contains(message));
  };
  const std::string array = place_of_tensor(expert).array;
  const float nan = std::nanf("");
  const std::vector<float> scales{1, 1, 1, 1, 1, nan}, negative{1, 1, 1, 1, -1, 1}, fine(6, 1.0f);
  const std::vector<std::int8_t> integers(12, 1);
  const std::vector<float> wild(12, nan);
  const auto int8_with = [&](const std::vector<float>& values, std::vector<std::int64_t> shape) {
    return file_with(folder, [&](ArrayFileWriter& file) {
      file.create(array, {ElementType::int8, {3, 2, 2}}, ArrayLayout::by_row);
      file.write_rows(array, 0, std::as_bytes(std::span(integers)));
      if (shape.empty()) return;
      file.create(array + ".scale", {ElementType::f32, shape});
      file.write_rows(array + ".scale", 0, std::as_bytes(std::span(values)));
    });
  };
  misread(file_with(folder, [](ArrayFileWriter&) {}), "no tensor 'model.layers.1.mlp.experts.2.gate_proj.weight'");
  misread(file_with(folder,
                    [&](ArrayFileWriter& file) {
                      file.create(array, {ElementType::f32, {2, 2, 2}}, ArrayLayout::by_row);
                    }),
          "no tensor 'model.layers.1.mlp.experts.2");
  misread(file_with(folder,
                    [&](ArrayFileWriter& file) {
                      file.create(array, {ElementType::f32, {3, 2, 4}}, ArrayLayout::by_row);
                    }),
          "has shape [2, 4], but the configuration asks for [2, 2]");
  misread(file_with(folder,
                    [&](ArrayFileWriter& file) {
                      file.create(array, {ElementType::f32, {3, 2, 2}}, ArrayLayout::by_row);
                      file.write_rows(array, 0, std::as_bytes(std::span(wild)));
                    }),
          "holds a value that is not finite");
  misread(int8_with(fine, {}), "is no f32 array with a scale for each of its 2 channels");
  misread(int8_with(fine, {2, 3}), "is no f32 array with a scale for each of its 2 channels");
  misread(int8_with(scales, {3, 2}), "the scale of channel 1 is nan, not a positive number");
  misread(int8_with(negative, {3, 2}), "the scale of channel 0 is -1, not a positive number");
  Checkpoint good(int8_with(fine, {3, 2}));
  CHECK(good.read(expert, {2, 2}) == std::vector<float>(4, 1.0f));
}

}  // namespace supernode::moe
