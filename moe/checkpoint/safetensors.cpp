#include "moe/checkpoint/safetensors.hpp"

#include <algorithm>
#include <bit>
#include <limits>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "moe/checkpoint/stand_in.hpp"
#include "runtime/core/error.hpp"
#include "runtime/core/json.hpp"

namespace supernode::moe {
namespace {

struct ElementRow {
  ElementType type;
  std::string_view name;
};
constexpr ElementRow element_rows[] = {
    {ElementType::f64, "F64"}, {ElementType::f32, "F32"},     {ElementType::f16, "F16"}, {ElementType::bf16, "BF16"},
    {ElementType::i64, "I64"}, {ElementType::i32, "I32"},     {ElementType::i16, "I16"}, {ElementType::int8, "I8"},
    {ElementType::u8, "U8"},   {ElementType::boolean, "BOOL"}};

/// The reference implementation's own limit.
constexpr std::uint64_t max_header_bytes = 100'000'000;

const ElementRow& row_of(ElementType type) {
  return *std::find_if(std::begin(element_rows), std::end(element_rows),
                       [&](const ElementRow& row) { return row.type == type; });
}

template <class T>
T load(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof(T));
  return value;
}

float half_to_float(std::uint16_t half) {
  const std::uint32_t sign = static_cast<std::uint32_t>(half & 0x8000u) << 16;
  const std::uint32_t exponent = (half >> 10) & 0x1fu, mantissa = half & 0x3ffu;
  if (exponent == 0x1f) return std::bit_cast<float>(sign | 0x7f800000u | (mantissa << 13));
  if (exponent == 0) {  // zero or subnormal: mantissa * 2^-24
    const float magnitude = static_cast<float>(mantissa) * 0x1.0p-24f;
    return sign ? -magnitude : magnitude;
  }
  return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
}

}  // namespace

std::string_view element_name(ElementType type) { return row_of(type).name; }

std::string shape_text(std::span<const std::int64_t> shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

SafetensorsFile::SafetensorsFile(const std::string& path) : path_(path), file_(path) { open(); }

SafetensorsFile::SafetensorsFile(std::shared_ptr<FileSource> source, const std::string& name)
    : path_(source->place() + "/" + name), file_(std::move(source), name) {
  open();
}

void SafetensorsFile::open() {
  const std::string& path = path_;
  const auto bytes = file_.bytes();
  const std::size_t head = std::min<std::size_t>(bytes.size(), 512);
  file_.need(0, head);
  refuse_stand_in(path, {reinterpret_cast<const char*>(bytes.data()), head});
  if (bytes.size() < 8) throw UsageError(fmt::format("{}: truncated: {} bytes hold no header", path, bytes.size()));
  const auto length = load<std::uint64_t>(bytes.data());
  if (length > max_header_bytes)
    throw UsageError(fmt::format("{}: not a safetensors file: header length {} is absurd", path, length));
  if (length > bytes.size() - 8)
    throw UsageError(fmt::format("{}: truncated: header of {} bytes in a file of {}", path, length, bytes.size()));
  file_.need(8, length);
  parse_header({reinterpret_cast<const char*>(bytes.data()) + 8, length}, bytes.subspan(8 + length));
}

namespace {

/// A tensor's entry in the header.
struct HeaderEntry {
  std::string dtype;
  const ElementRow* row = nullptr;  ///< null: a type that is not known here
  std::vector<std::int64_t> shape;
  std::uint64_t begin = 0, end = 0;
};

/// @param refuse (why) throws
template <class Refuse>
HeaderEntry parse_entry(const Json& entry, std::uint64_t data_bytes, Refuse&& refuse) {
  if (!entry.is_object() || !entry.contains("dtype") || !entry.contains("shape") || !entry.contains("data_offsets"))
    refuse("needs dtype, shape and data_offsets");
  const Json &dtype = entry["dtype"], &shape = entry["shape"], &offsets = entry["data_offsets"];
  HeaderEntry result;
  if (!dtype.is_string()) refuse("dtype is not a name");
  result.dtype = dtype.get<std::string>();
  for (const ElementRow& candidate : element_rows)
    if (result.dtype == candidate.name) result.row = &candidate;
  if (!shape.is_array()) refuse("shape is not a list");
  std::uint64_t elements = 1;
  for (const Json& extent : shape) {
    if (!extent.is_number_unsigned() || extent.get<std::uint64_t>() > std::numeric_limits<std::int64_t>::max())
      refuse("shape holds something that is not a size");
    const auto size = extent.get<std::uint64_t>();
    // Types below a byte hold at most 8 elements in one.
    const std::uint64_t most = result.row ? data_bytes : 8 * data_bytes;
    if (size != 0 && elements != 0 && elements > most / size)
      refuse(fmt::format("shape is larger than the file ({} bytes of data)", data_bytes));
    elements *= size;
    result.shape.push_back(static_cast<std::int64_t>(size));
  }
  if (!offsets.is_array() || offsets.size() != 2 || !offsets[0].is_number_unsigned() ||
      !offsets[1].is_number_unsigned())
    refuse("data_offsets are not two positions");
  result.begin = offsets[0].get<std::uint64_t>();
  result.end = offsets[1].get<std::uint64_t>();
  if (result.begin > result.end) refuse(fmt::format("data_offsets [{}, {}] run backwards", result.begin, result.end));
  if (result.end > data_bytes)
    refuse(fmt::format("data_offsets [{}, {}] reach beyond the {} bytes of data: truncated file?", result.begin,
                       result.end, data_bytes));
  if (result.row && result.end - result.begin != elements * element_bytes(result.row->type))
    refuse(
        fmt::format("{} bytes for {} of shape {}", result.end - result.begin, result.dtype, shape_text(result.shape)));
  return result;
}

}  // namespace

void SafetensorsFile::parse_header(std::string_view header, std::span<const std::byte> data) {
  const Json json = parse_json(header, path_ + ": header");
  if (!json.is_object()) throw UsageError(fmt::format("{}: header is not a JSON object", path_));

  struct Extent {
    std::uint64_t begin, end;
    std::string name;
  };
  std::vector<Extent> extents;
  for (const auto& [name, entry] : json.items()) {
    if (name == "__metadata__") continue;
    HeaderEntry parsed = parse_entry(entry, data.size(), [&, &tensor = name](const std::string& why) {
      throw UsageError(fmt::format("{}: tensor '{}': {}", path_, tensor, why));
    });
    if (parsed.begin != parsed.end) extents.push_back({parsed.begin, parsed.end, name});
    if (parsed.row)
      tensors_.emplace(name, TensorView{parsed.row->type, std::move(parsed.shape),
                                        data.subspan(parsed.begin, parsed.end - parsed.begin)});
    else
      unknown_.emplace(name,
                       TensorInfo{name, std::move(parsed.dtype), std::move(parsed.shape), parsed.end - parsed.begin});
  }
  std::sort(extents.begin(), extents.end(), [](const Extent& a, const Extent& b) { return a.begin < b.begin; });
  for (std::size_t i = 1; i < extents.size(); ++i)
    if (extents[i].begin < extents[i - 1].end)
      throw UsageError(
          fmt::format("{}: tensors '{}' and '{}' overlap in the file", path_, extents[i - 1].name, extents[i].name));
}

const TensorView* SafetensorsFile::find(const std::string& name) const {
  const auto at = tensors_.find(name);
  return at == tensors_.end() ? nullptr : &at->second;
}

const TensorView& SafetensorsFile::at(const std::string& name) const {
  if (const auto odd = unknown_.find(name); odd != unknown_.end())
    throw UsageError(fmt::format("{}: tensor '{}': dtype {} is not supported", path_, name, odd->second.type));
  const TensorView* tensor = find(name);
  if (!tensor) throw UsageError(fmt::format("{}: no tensor '{}'", path_, name));
  if (!tensor->bytes.empty())
    file_.need(static_cast<std::size_t>(tensor->bytes.data() - file_.bytes().data()), tensor->bytes.size());
  return *tensor;
}

bool convert_to_f32(const TensorView& tensor, std::span<float> out) {
  expect(out.size() == tensor.size(), "convert_to_f32: sizes differ");
  const std::byte* from = tensor.bytes.data();
  switch (tensor.type) {
    case ElementType::f32:
      if (!out.empty()) std::memcpy(out.data(), from, out.size_bytes());
      return true;
    case ElementType::bf16:
      for (std::size_t i = 0; i < out.size(); ++i)
        out[i] = std::bit_cast<float>(static_cast<std::uint32_t>(load<std::uint16_t>(from + 2 * i)) << 16);
      return true;
    case ElementType::f16:
      for (std::size_t i = 0; i < out.size(); ++i) out[i] = half_to_float(load<std::uint16_t>(from + 2 * i));
      return true;
    case ElementType::f64:
      for (std::size_t i = 0; i < out.size(); ++i) out[i] = static_cast<float>(load<double>(from + 8 * i));
      return true;
    default:
      return false;
  }
}

bool convert_to_i32(const TensorView& tensor, std::span<std::int32_t> out) {
  expect(out.size() == tensor.size(), "convert_to_i32: sizes differ");
  for (std::size_t i = 0; i < out.size(); ++i) {
    if (tensor.type == ElementType::i32) {
      out[i] = load<std::int32_t>(tensor.bytes.data() + 4 * i);
    } else if (tensor.type == ElementType::i64) {
      const auto value = load<std::int64_t>(tensor.bytes.data() + 8 * i);
      out[i] = static_cast<std::int32_t>(value);
      if (out[i] != value) return false;
    } else {
      return false;
    }
  }
  return tensor.type == ElementType::i32 || tensor.type == ElementType::i64;
}

void write_safetensors(const std::string& path, std::span<const TensorToWrite> tensors, IfExists if_exists) {
  Json header = Json::object();
  std::uint64_t offset = 0;
  for (const TensorToWrite& tensor : tensors) {
    header[tensor.name] = {{"dtype", element_name(tensor.type)},
                           {"shape", tensor.shape},
                           {"data_offsets", {offset, offset + tensor.data.size()}}};
    offset += tensor.data.size();
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');  // the data starts aligned
  const auto length = static_cast<std::uint64_t>(text.size());

  NewFile file(path, if_exists);
  file.write({reinterpret_cast<const char*>(&length), sizeof length});
  file.write(text);
  for (const TensorToWrite& tensor : tensors)
    file.write({reinterpret_cast<const char*>(tensor.data.data()), tensor.data.size()});
  file.commit();
}

}  // namespace supernode::moe
