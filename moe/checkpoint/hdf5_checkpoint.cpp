#include "moe/checkpoint/hdf5_checkpoint.hpp"

#include <algorithm>
#include <bit>
#include <charconv>
#include <cmath>
#include <string_view>

#include <fmt/format.h>

#include "moe/checkpoint/safetensors.hpp"
#include "runtime/core/error.hpp"

namespace supernode::moe {
namespace {

constexpr std::string_view scale_suffix = ".scale";

std::vector<std::byte> image_of(FileSource& source, const std::string& name) {
  const std::optional<std::uint64_t> bytes = source.size(name);
  if (!bytes) throw UsageError(fmt::format("{}: no file '{}'", source.place(), name));
  std::vector<std::byte> image(*bytes);
  source.read(name, 0, image);
  return image;
}

std::vector<std::int64_t> shape_of_tensor(const ArrayInfo& info, const ArrayPlace& place) {
  return {info.shape.begin() + (place.row < 0 ? 0 : 1), info.shape.end()};
}

}  // namespace

ArrayPlace place_of_tensor(const std::string& tensor) {
  constexpr std::string_view marker = ".experts.";
  const std::size_t at = tensor.find(marker);
  if (at == std::string::npos) return {tensor};
  const char* const first = tensor.data() + at + marker.size();
  std::int64_t expert = -1;
  const auto [end, error] = std::from_chars(first, tensor.data() + tensor.size(), expert);
  if (error != std::errc{} || expert < 0 || *end != '.') return {tensor};
  return {tensor.substr(0, at + marker.size()) + "*" + end, expert};
}

Hdf5Checkpoint::Hdf5Checkpoint(const std::string& path) : file_(path) { check(path); }

Hdf5Checkpoint::Hdf5Checkpoint(FileSource& source, const std::string& name)
    : file_(source.place() + "/" + name, image_of(source, name)) {
  check(source.place() + "/" + name);
}

void Hdf5Checkpoint::check(const std::string& path) const {
  if (file_.attribute("format") != format_name)
    throw UsageError(fmt::format("{}: not a checkpoint of this program, or its import was interrupted", path));
  if (const std::string found = file_.attribute("version"); found != version)
    throw UsageError(fmt::format("{}: checkpoint version '{}'; supported: {}", path, found, version));
}

bool Hdf5Checkpoint::has(const std::string& tensor) {
  const ArrayPlace place = place_of_tensor(tensor);
  const ArrayInfo* info = file_.find(place.array);
  return info && place.row < info->shape[0];
}

const ArrayInfo& Hdf5Checkpoint::info_of(const std::string& tensor, const ArrayPlace& place,
                                         std::span<const std::int64_t> shape) {
  if (!has(tensor)) throw UsageError(fmt::format("{}: no tensor '{}'", file_.path(), tensor));
  const ArrayInfo& info = *file_.find(place.array);
  const std::vector<std::int64_t> stored = shape_of_tensor(info, place);
  if (!std::equal(stored.begin(), stored.end(), shape.begin(), shape.end()))
    throw UsageError(fmt::format("{}: tensor '{}' has shape {}, but the configuration asks for {}", file_.path(),
                                 tensor, shape_text(stored), shape_text(shape)));
  return info;
}

std::vector<float> Hdf5Checkpoint::read(const std::string& tensor, std::span<const std::int64_t> shape) {
  const ArrayPlace place = place_of_tensor(tensor);
  const ArrayInfo& info = info_of(tensor, place, shape);
  const std::size_t bytes = place.row < 0 ? info.bytes() : info.row_bytes();
  const std::size_t row = place.row < 0 ? 0 : static_cast<std::size_t>(place.row);
  std::vector<float> values(bytes / element_bytes(info.type));
  if (const std::optional<Int8Matrix> matrix = read_int8(tensor, shape)) {
    const std::size_t width = matrix->scales.empty() ? 1 : values.size() / matrix->scales.size();
    for (std::size_t i = 0; i < values.size(); ++i)
      values[i] = static_cast<float>(matrix->integers[i]) * matrix->scales[i / width];
  } else if (info.type == ElementType::f32) {
    file_.read_rows(place.array, row, std::as_writable_bytes(std::span(values)));
  } else {
    std::vector<std::uint16_t> halves(values.size());
    file_.read_rows(place.array, row, std::as_writable_bytes(std::span(halves)));
    std::transform(halves.begin(), halves.end(), values.begin(),
                   [](std::uint16_t half) { return std::bit_cast<float>(static_cast<std::uint32_t>(half) << 16); });
  }
  if (!std::all_of(values.begin(), values.end(), [](float value) { return std::isfinite(value); }))
    throw UsageError(fmt::format("{}: tensor '{}' holds a value that is not finite", file_.path(), tensor));
  return values;
}

std::optional<Int8Matrix> Hdf5Checkpoint::read_int8(const std::string& tensor, std::span<const std::int64_t> shape) {
  const ArrayPlace place = place_of_tensor(tensor);
  const ArrayInfo& info = info_of(tensor, place, shape);
  if (info.type != ElementType::int8) return std::nullopt;
  Int8Matrix matrix;
  matrix.integers.resize(place.row < 0 ? info.bytes() : info.row_bytes());
  file_.read_rows(place.array, place.row < 0 ? 0 : static_cast<std::size_t>(place.row),
                  std::as_writable_bytes(std::span(matrix.integers)));
  matrix.scales = read_scales(tensor, place, shape.empty() ? 1 : shape[0]);
  return matrix;
}

std::vector<float> Hdf5Checkpoint::read_scales(const std::string& tensor, const ArrayPlace& place,
                                               std::int64_t channels) const {
  const std::string name = place.array + std::string(scale_suffix);
  const ArrayInfo* info = file_.find(name);
  if (!info || info->type != ElementType::f32 || (place.row >= 0 && place.row >= info->shape[0]) ||
      shape_of_tensor(*info, place) != std::vector<std::int64_t>{channels})
    throw UsageError(
        fmt::format("{}: tensor '{}' is int8, but '{}' is no f32 array with a scale for each of its {} channels",
                    file_.path(), tensor, name, channels));
  std::vector<float> scales(static_cast<std::size_t>(channels));
  file_.read_rows(name, place.row < 0 ? 0 : static_cast<std::size_t>(place.row),
                  std::as_writable_bytes(std::span(scales)));
  for (std::size_t channel = 0; channel < scales.size(); ++channel)
    if (!std::isfinite(scales[channel]) || scales[channel] <= 0)
      throw UsageError(fmt::format("{}: tensor '{}': the scale of channel {} is {}, not a positive number",
                                   file_.path(), tensor, channel, scales[channel]));
  return scales;
}

std::vector<std::string> Hdf5Checkpoint::names() {
  std::vector<std::string> result;
  for (const TensorInfo& tensor : tensors()) result.push_back(tensor.name);
  return result;
}

std::vector<TensorInfo> Hdf5Checkpoint::tensors() {
  std::vector<TensorInfo> result;
  for (const auto& [name, info] : file_.arrays()) {
    if (name.ends_with(scale_suffix)) continue;
    const ArrayInfo* scale = file_.find(name + std::string(scale_suffix));
    const std::size_t star = name.find('*');
    if (star == std::string::npos) {
      result.push_back(
          {name, std::string(name_of(info.type)), info.shape, info.bytes() + (scale ? scale->bytes() : 0)});
      continue;
    }
    for (std::int64_t expert = 0; expert < info.shape[0]; ++expert)
      result.push_back({name.substr(0, star) + std::to_string(expert) + name.substr(star + 1),
                        std::string(name_of(info.type)),
                        {info.shape.begin() + 1, info.shape.end()},
                        info.row_bytes() + (scale ? scale->row_bytes() : 0)});
  }
  return result;
}

}  // namespace supernode::moe
