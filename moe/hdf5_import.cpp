#include "moe/hdf5_import.hpp"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <string_view>

#include <fmt/format.h>

#include "moe/checkpoint/hdf5_checkpoint.hpp"
#include "moe/checkpoint/tensor_names.hpp"
#include "moe/products/bf16.hpp"
#include "moe/products/smoothing.hpp"
#include "runtime/core/error.hpp"

namespace supernode::moe {
namespace {

ElementType stored_as(const TensorInfo& tensor, ComputeType type) {
  const auto& name = tensor.name;
  if (tensor.shape.size() != 2 || name.ends_with(".gate.weight") || type == ComputeType::f32) return ElementType::f32;
  const bool wide = name.ends_with("embed_tokens.weight") || name.ends_with("head.weight") ||
                    name.ends_with("eh_proj.weight") || name.ends_with("kv_b_proj.weight");
  return type == ComputeType::bf16 || wide ? ElementType::bf16 : ElementType::int8;
}

float round_to_int8(float value) { return std::clamp(std::nearbyint(value), -127.0f, 127.0f); }

double squared_error(std::span<const float> row, float scale) {
  double error = 0;
  for (const float value : row) {
    const double lost = value - round_to_int8(value / scale) * scale;
    error += lost * lost;
  }
  return error;
}

/// A matrix in int8, and what was lost.
struct Quantised {
  std::vector<std::int8_t> values;
  std::vector<float> scales;
  double error = 0, error_unsearched = 0, squares = 0;
};

Quantised quantise(std::span<const float> matrix, std::size_t channels) {
  constexpr float fractions[] = {0.98f, 0.95f, 0.92f, 0.88f, 0.84f};
  Quantised result;
  result.values.resize(matrix.size());
  const std::size_t width = channels == 0 ? 0 : matrix.size() / channels;
  for (std::size_t channel = 0; channel < channels; ++channel) {
    const auto row = matrix.subspan(channel * width, width);
    float largest = 0;
    for (const float value : row) {
      largest = std::max(largest, std::abs(value));
      result.squares += static_cast<double>(value) * value;
    }
    // A channel of zeros, or one so small that its scale would vanish, is zero.
    float scale = largest / 127 < 1e-30f ? 1.0f : largest / 127;
    const double unsearched = squared_error(row, scale);
    double least = unsearched;
    for (const float fraction : fractions) {
      const float candidate = largest * fraction / 127;
      if (candidate < 1e-30f) break;
      if (const double error = squared_error(row, candidate); error < least) {
        least = error;
        scale = candidate;
      }
    }
    for (std::size_t i = 0; i < width; ++i)
      result.values[channel * width + i] = static_cast<std::int8_t>(round_to_int8(row[i] / scale));
    result.scales.push_back(scale);
    result.error += least;
    result.error_unsearched += unsearched;
  }
  return result;
}

/// All tensors but those that nobody reads and that are of a type that cannot be read.
std::vector<TensorInfo> importable(Checkpoint& from) {
  std::vector<TensorInfo> tensors = from.tensors();
  std::vector<std::string> names;
  for (const TensorInfo& tensor : tensors) names.push_back(tensor.name);
  const TensorUse use = use_of_tensors(names, from.config());
  const std::set<std::string_view> read(use.read.begin(), use.read.end());
  std::erase_if(tensors,
                [&](const TensorInfo& tensor) { return !has_f32_form(tensor.type) && !read.contains(tensor.name); });
  return tensors;
}

/// Arrays of the new file: their tensors, experts in order.
using Plan = std::map<std::string, std::vector<const TensorInfo*>>;

Plan plan_arrays(const std::vector<TensorInfo>& tensors, const std::string& source) {
  Plan plan;
  for (const TensorInfo& tensor : tensors) {
    const ArrayPlace place = place_of_tensor(tensor.name);
    auto& members = plan[place.array];
    const auto index = static_cast<std::size_t>(std::max<std::int64_t>(place.row, 0));
    if (index >= tensors.size())
      throw UsageError(fmt::format("{}: tensor '{}', but experts before it are missing", source, tensor.name));
    if (members.size() <= index) members.resize(index + 1);
    members[index] = &tensor;
  }
  for (const auto& [array, members] : plan) {
    const auto hole = std::find(members.begin(), members.end(), nullptr);
    if (hole != members.end())
      throw UsageError(fmt::format("{}: no expert {} of '{}'", source, hole - members.begin(), array));
    for (const TensorInfo* member : members)
      if (member->shape != members[0]->shape)
        throw UsageError(
            fmt::format("{}: tensors '{}' and '{}' have different shapes", source, members[0]->name, member->name));
  }
  return plan;
}

}  // namespace

ImportSummary import_checkpoint(Checkpoint& from, const std::string& output, ComputeType type, OutlierSmoothing wanted,
                                IfExists if_exists) {
  const Smoothing smoothing = wanted == OutlierSmoothing::search ? Smoothing(from) : Smoothing();
  const std::vector<TensorInfo> tensors = importable(from);
  const Plan plan = plan_arrays(tensors, from.directory());
  ArrayFileWriter file(output, if_exists);
  ImportSummary summary;
  summary.groups = smoothing.groups();
  summary.smoothed_groups = smoothing.smoothed();
  summary.smoothing_error_ratio = smoothing.error_ratio();
  double error = 0, error_unsearched = 0, squares = 0;
  for (const auto& [array, members] : plan) {
    const bool stacked = array.find('*') != std::string::npos;
    ArrayInfo info{stored_as(*members[0], type), members[0]->shape};
    if (info.shape.empty()) info.shape = {1};
    ArrayInfo scales{ElementType::f32, {info.shape[0]}};
    if (stacked) {
      info.shape.insert(info.shape.begin(), static_cast<std::int64_t>(members.size()));
      scales.shape.insert(scales.shape.begin(), info.shape[0]);
    }
    file.create(array, info, stacked ? ArrayLayout::by_row : ArrayLayout::whole);
    if (info.type == ElementType::int8) file.create(array + ".scale", scales);
    for (std::size_t i = 0; i < members.size(); ++i) {
      std::vector<float> values = from.read(members[i]->name, std::span(members[i]->shape));
      smoothing.apply(members[i]->name, members[i]->shape, values);
      summary.bytes_read += members[i]->bytes;
      summary.bytes_written += values.size() * element_bytes(info.type);
      if (info.type == ElementType::f32) {
        file.write_rows(array, i, std::as_bytes(std::span(values)));
      } else if (info.type == ElementType::bf16) {
        std::vector<std::uint16_t> halves(values.size());
        to_bf16(values, halves.data());
        file.write_rows(array, i, std::as_bytes(std::span(halves)));
      } else {
        const Quantised quantised = quantise(values, static_cast<std::size_t>(members[i]->shape[0]));
        file.write_rows(array, i, std::as_bytes(std::span(quantised.values)));
        file.write_rows(array + ".scale", i, std::as_bytes(std::span(quantised.scales)));
        summary.bytes_written += quantised.scales.size() * sizeof(float);
        error += quantised.error;
        error_unsearched += quantised.error_unsearched;
        squares += quantised.squares;
      }
      ++summary.tensors;
    }
  }
  if (squares > 0) {
    summary.int8_error = std::sqrt(error / squares);
    summary.int8_error_unsearched = std::sqrt(error_unsearched / squares);
  }
  file.attribute("config", from.config_text());
  file.attribute("dtype", std::string(name_of(type)));
  file.attribute("version", Hdf5Checkpoint::version);
  file.attribute("format", Hdf5Checkpoint::format_name);  // last: a file without it is not complete
  file.close();
  return summary;
}

}  // namespace supernode::moe
