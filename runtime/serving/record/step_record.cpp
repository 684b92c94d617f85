#include "runtime/serving/record/step_record.hpp"

#include <fmt/format.h>

#include "runtime/core/byte_stream.hpp"
#include "runtime/core/error.hpp"

namespace supernode::serving {
namespace {

/// Version 1 has no slowness.
constexpr std::uint16_t kVersion = 2;

/// Most counts of a decode step are small, so a byte each does; larger ones follow in order where the byte is full.
constexpr std::uint8_t kFull = 255;

void put_rows(ByteWriter& to, std::span<const std::int32_t> rows) {
  std::vector<std::uint8_t> small(rows.size());
  std::vector<std::int32_t> large;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const bool fits = rows[i] >= 0 && rows[i] < kFull;
    small[i] = fits ? static_cast<std::uint8_t>(rows[i]) : kFull;
    if (!fits) large.push_back(rows[i]);
  }
  to.put_all(std::span<const std::uint8_t>(small));
  to.put_all(std::span<const std::int32_t>(large));
}

std::vector<std::int32_t> get_rows(ByteReader& from) {
  const std::vector<std::uint8_t> small = from.get_all<std::uint8_t>();
  const std::vector<std::int32_t> large = from.get_all<std::int32_t>();
  std::vector<std::int32_t> rows(small.begin(), small.end());
  std::size_t next = 0;
  for (std::int32_t& count : rows) {
    if (count < kFull) continue;
    if (next == large.size()) throw EnvironmentError("record of a step lacks large counts of rows");
    count = large[next++];
  }
  if (next != large.size()) throw EnvironmentError("record of a step has too many large counts of rows");
  return rows;
}

}  // namespace

std::vector<std::byte> encode_step(const StartedStep& started) {
  const emulation::DieStep& step = started.step;
  std::size_t rows = 0;
  for (const emulation::MicrobatchStep& part : step.microbatches) rows += part.rows.size();
  ByteWriter to;
  to.reserve(64 + 64 * step.microbatches.size() + 2 * rows + 12 * step.loads.size());
  to.put(kVersion).put(started.start.time_since_epoch().count());
  to.put<std::uint64_t>(step.microbatches.size());
  for (const emulation::MicrobatchStep& part : step.microbatches) {
    to.put(part.work.sequences).put(part.work.tokens).put(part.work.context).put(part.work.attended);
    put_rows(to, part.rows);
  }
  to.put(step.slowness).put<std::uint64_t>(step.loads.size());
  for (const emulation::PoolLoad& load : step.loads) to.put<std::int32_t>(load.owner).put(load.bytes);
  return to.take();
}

StartedStep decode_step(std::span<const std::byte> bytes) {
  ByteReader from(bytes);
  const auto version = from.get<std::uint16_t>();
  if (version < 1 || version > kVersion)
    throw EnvironmentError(fmt::format("record of a step of version {}, this program has {}", version, kVersion));
  StartedStep started;
  started.start = RunTime(RunSpan(from.get<std::int64_t>()));
  started.step.microbatches.resize(from.get_count(4 * sizeof(double)));
  for (emulation::MicrobatchStep& part : started.step.microbatches) {
    part.work.sequences = from.get<double>();
    part.work.tokens = from.get<double>();
    part.work.context = from.get<double>();
    part.work.attended = from.get<double>();
    part.rows = get_rows(from);
  }
  if (version >= 2) started.step.slowness = from.get<double>();
  if (!(started.step.slowness >= 1)) throw EnvironmentError("record of a step with a slowness below 1");
  started.step.loads.resize(from.get_count(sizeof(std::int32_t) + sizeof(double)));
  for (emulation::PoolLoad& load : started.step.loads) {
    load.owner = from.get<std::int32_t>();
    load.bytes = from.get<double>();
  }
  from.finish();
  return started;
}

}  // namespace supernode::serving
