// Mutated configurations, safetensors and HDF5 files: whatever comes in, the parsers accept it or throw a UsageError.
// The mutations are a function of the round; SUPERNODE_FUZZ_SECONDS says how long to go on (3).
#include <bit>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>

#include <fmt/format.h>
#include <unistd.h>

#include "moe/checkpoint.hpp"
#include "moe/checkpoint/hdf5_checkpoint.hpp"
#include "moe/checkpoint/safetensors.hpp"
#include "moe/model_config.hpp"
#include "runtime/core/clock.hpp"
#include "runtime/core/error.hpp"
#include "runtime/core/files.hpp"
#include "runtime/core/random.hpp"
#include "tests/support/catch.hpp"

namespace supernode::moe {
namespace {
namespace fs = std::filesystem;

double fuzz_seconds() {
  const char* text = std::getenv("SUPERNODE_FUZZ_SECONDS");
  return text ? std::atof(text) : 3;
}

/// Spellings that have a history of breaking parsers.
const char* const words[] = {"0",
                             "-1",
                             "1e999",
                             "18446744073709551615",
                             "9223372036854775808",
                             "2147483648",
                             "1e-9",
                             "null",
                             "[]",
                             "{}",
                             "\"\"",
                             "true",
                             "NaN",
                             "4.5",
                             "[[[[[[",
                             "\"\\ud800\"",
                             "{\"a\":",
                             "\xff\xfe"};

std::string mutated(std::string text, Random& random) {
  for (std::uint64_t edits = 1 + random.below(4); edits > 0; --edits) {
    const std::size_t at = random.below(text.size() + 1), left = text.size() - at;
    const std::size_t span = std::min<std::size_t>(left, 1 + random.below(random.below(8) == 0 ? 200 : 8));
    switch (random.below(7)) {
      case 0:
        if (left > 0) text[at] = static_cast<char>(random.below(256));
        break;
      case 1:
        if (left > 0) text[at] = static_cast<char>(text[at] ^ (1 << random.below(8)));
        break;
      case 2:
        text.erase(at, span);
        break;
      case 3:
        text.insert(at, text.substr(random.below(text.size() + 1), span));
        break;
      case 4:
        text.replace(at, span, words[random.below(std::size(words))]);
        break;
      case 5: {  // a whole number becomes another
        const std::size_t digit = text.find_first_of("0123456789", at);
        if (digit == std::string::npos) break;
        const std::size_t end = text.find_first_not_of("0123456789", digit);
        text.replace(digit, (end == std::string::npos ? text.size() : end) - digit,
                     words[random.below(std::size(words))]);
        break;
      }
      default:
        if (random.below(4) == 0) text.resize(at);
    }
  }
  return text;
}

/// Runs `parse` on mutations of `seed` for `seconds`. Every message must say where the trouble is.
template <class Parse>
void fuzz(const std::string& seed, const std::string& source, double seconds, Parse&& parse) {
  const double end = wall_now().value + seconds;
  std::uint64_t round = 0, refused = 0;
  for (; wall_now().value < end; ++round) {
    Random random(20, round);
    const std::string text = mutated(seed, random);
    INFO("round " << round);
    try {
      parse(text);
    } catch (const UsageError& error) {
      ++refused;
      if (std::string(error.what()).find(source) == std::string::npos) FAIL("no source in: " << error.what());
    } catch (const std::exception& error) {
      FAIL("not a UsageError: " << error.what());
    }
  }
  CHECK(round > 0);
  CHECK(refused > 0);
}

}  // namespace

TEST_CASE("fuzz: config.json") {
  const std::string seed = read_file(test::source_path("configs/models/shakespeare-moe/config.json"));
  fuzz(seed, "fuzz.json", fuzz_seconds() / 3, [](const std::string& text) { parse_model_config(text, "fuzz.json"); });
}

TEST_CASE("fuzz: safetensors") {
  const std::string path = (fs::temp_directory_path() / fmt::format("supernode-fuzz-{}", ::getpid())).string();
  const std::vector<float> values(24, 1.5f);
  const std::vector<TensorToWrite> tensors{
      {"model.a", ElementType::f32, {2, 3}, std::as_bytes(std::span(values).first(6))},
      {"model.b", ElementType::bf16, {4}, std::as_bytes(std::span(values).first(2))},
      {"c", ElementType::i64, {1, 1, 2}, std::as_bytes(std::span(values).first(4))},
      {"empty", ElementType::u8, {0, 7}, {}},
      {"d", ElementType::f16, {}, std::as_bytes(std::span(values).first(1)).first(2)}};
  fs::remove(path);
  write_safetensors(path, tensors);
  const std::string seed = read_file(path);
  fuzz(seed, path, fuzz_seconds() / 3, [&](const std::string& text) {
    std::string bytes = text;
    // Half of the time the length fits the header again, so that more than the length is tried.
    const std::size_t brace = bytes.rfind('}');
    if (bytes.size() > 8 && brace != std::string::npos && brace >= 8 && bytes.size() % 2 == 0) {
      const std::uint64_t length = brace + 1 - 8;
      std::memcpy(bytes.data(), &length, sizeof length);
    }
    std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
    const SafetensorsFile file(path);
    for (const auto& [name, view] : file.tensors()) {
      std::vector<float> floats(view.size());
      std::vector<std::int32_t> integers(view.size());
      convert_to_f32(view, floats);
      convert_to_i32(view, integers);
    }
  });
  fs::remove(path);
}

namespace {

/// Every tensor of the checkpoint, read as a model would.
void read_all(const std::string& path) {
  Checkpoint checkpoint(path);
  for (const TensorInfo& tensor : checkpoint.tensors()) checkpoint.read(tensor.name, std::span(tensor.shape));
}

}  // namespace

TEST_CASE("fuzz: HDF5 checkpoints") {
  const fs::path folder = fs::temp_directory_path() / fmt::format("supernode-fuzz-h5-{}", ::getpid());
  fs::remove_all(folder);
  fs::create_directories(folder);
  const std::string config = read_file(test::source_path("configs/models/shakespeare-moe/config.json"));
  // The library itself does not survive every broken byte, so what is broken here is what our own reading must check:
  // attributes, names, types, shapes and values; and the file's length, which the library checks.
  int round = 0;
  fuzz(config, folder.string(), fuzz_seconds() / 3, [&](const std::string& text) {
    Random random(21, static_cast<std::uint64_t>(round++));
    const std::string path = (folder / fmt::format("{}.h5", round)).string();
    const auto one_of = [&](std::vector<std::string> values) { return values[random.below(values.size())]; };
    {
      ArrayFileWriter file(path);
      const std::string name = one_of({"a", "model.layers.1.mlp.experts.*.up_proj.weight", "x.experts.-1.y", "*"});
      constexpr ElementType stored[] = {ElementType::f32, ElementType::bf16, ElementType::int8};
      const auto any_type = [&] { return stored[random.below(std::size(stored))]; };
      const auto extent = [&] { return static_cast<std::int64_t>(random.below(4)); };
      const ArrayInfo info{any_type(), {1 + extent(), 1 + extent(), 1 + extent()}};
      file.create(name, info, random.below(2) == 0 ? ArrayLayout::by_row : ArrayLayout::whole);
      std::vector<std::byte> bytes(info.row_bytes());
      for (std::byte& byte : bytes) byte = static_cast<std::byte>(random.below(256));
      file.write_rows(name, 0, bytes);
      if (random.below(2) == 0) {
        const ArrayInfo scales{any_type(), {1 + extent(), 1 + extent()}};
        file.create(name + ".scale", scales);
      }
      file.attribute("config", random.below(2) == 0 ? config : text);
      file.attribute("version", random.below(8) == 0 ? text : Hdf5Checkpoint::version);
      if (random.below(8) != 0) file.attribute("format", Hdf5Checkpoint::format_name);
      file.close();
    }
    if (random.below(8) == 0) fs::resize_file(path, random.below(fs::file_size(path)));
    try {
      read_all(path);
    } catch (...) {
      fs::remove(path);
      throw;
    }
    fs::remove(path);
  });
  fs::remove_all(folder);
}

}  // namespace supernode::moe
